"""Running a model: circuit breaker, guarded call, thread pool, runners in this process and in another."""

__all__ = ["circuit_breaker", "guard", "isolated_runner", "pool", "runner", "model_host"]
