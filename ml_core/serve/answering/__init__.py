"""The inference core: typed requests in, answers out, with fallback, shadow and recording."""

__all__ = ["answers", "envelope", "fallback", "inference", "live", "recording", "request_fields", "requests", "shadow"]
