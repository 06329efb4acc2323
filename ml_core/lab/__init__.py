"""What makes, judges and watches models. Never in a bento."""

__all__ = ["config"]
