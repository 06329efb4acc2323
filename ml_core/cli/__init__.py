"""The `surety` command: one file per verb, each a thin shell over one call."""

__all__ = ["main", "output"]
