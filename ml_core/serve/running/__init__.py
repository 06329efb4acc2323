"""Running a model: circuit breaker, guarded call, thread pool, runners in this process and in another."""

__all__ = ["circuit_breaker", "isolated_runner", "model_host", "pool", "runner"]
