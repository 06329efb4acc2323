"""What every room may use: errors, settings, the clock, documents, the journal, files."""

__all__ = [
    "arrays",
    "clock",
    "documents",
    "errors",
    "files",
    "journal",
    "near_names",
    "reserve",
    "settings",
    "strict_yaml",
]
