"""The address from which feature versions import. It is part of every model's hash, so it never moves."""

__all__ = ["columns"]
