"""HTTP: keys, admission, middleware, handlers, Arrow, OpenAPI, replies."""

__all__ = ["api_keys", "handlers", "json_logs", "middleware", "openapi", "replies"]
