"""One worker: start-up, following the rollout, its own report, `/status`."""

__all__ = ["start_notes", "startup", "worker"]
