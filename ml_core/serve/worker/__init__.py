"""One worker: start-up, following the rollout, its own report, `/status`."""

__all__ = ["metrics_folder", "startup", "worker"]
