"""The report: facts from every store, the page, its plots."""

__all__ = ["collect", "page"]
