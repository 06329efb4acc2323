"""What is live: the rollout state and its changes, routing, the reports of processes, what the monitor published."""

__all__ = [
    "changes",
    "monitor_state",
    "processes",
    "rollout_state",
    "rollout_store",
    "worker_reports",
]
