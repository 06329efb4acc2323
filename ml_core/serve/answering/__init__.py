"""The inference core: typed requests in, answers out, with fallback, shadow and recording."""

__all__ = [
    "answers",
    "envelope",
    "fallback",
    "inference",
    "label_intake",
    "live",
    "recording",
    "request_ids",
    "requests",
    "shadow",
]
