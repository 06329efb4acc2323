"""What is in a bento: everything that answers requests, and nothing that trains or judges."""

__all__ = ["metrics"]
