"""One worker: start-up, following the rollout, its own report, `/status`."""

__all__ = ["startup", "worker"]
