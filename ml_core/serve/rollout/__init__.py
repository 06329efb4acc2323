"""What is live: the rollout state and its changes, routing, the reports of processes, what the monitor published."""

__all__ = [
    "census",
    "changes",
    "contract",
    "monitor_state",
    "rollout_state",
    "rollout_store",
    "routing",
    "worker_reports",
]
