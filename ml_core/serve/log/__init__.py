"""The prediction log and the labels: what was answered, and what turned out to be true."""

__all__ = [
    "database",
    "entries",
    "erasure_requests",
    "fields",
    "import_counts",
    "label_requests",
    "labels",
    "log_files",
    "logged_answers",
    "migrations",
    "prediction_store",
    "pseudonyms",
    "reader",
    "segments",
    "tables",
    "writer",
]
