"""What both wings stand on: errors, settings, the clock, documents, the journal, files, array types."""

__all__ = ["array_types", "clock", "documents", "errors", "files", "journal", "settings"]
