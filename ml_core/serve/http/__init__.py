"""HTTP: keys, admission, middleware, handlers, Arrow, Open Inference Protocol, OpenAPI, replies."""

__all__ = ["api_keys", "handlers", "json_logs", "middleware", "openapi", "openapi_parts", "replies"]
