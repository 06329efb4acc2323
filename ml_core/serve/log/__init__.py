"""The prediction log and the labels: what was answered, and what turned out to be true."""

__all__ = [
    "database",
    "entries",
    "erasure_requests",
    "fields",
    "label_chain",
    "label_file",
    "label_requests",
    "labels",
    "log_files",
    "log_heads",
    "log_key",
    "log_records",
    "logged_answers",
    "migrations",
    "prediction_store",
    "pseudonyms",
    "reader",
    "segments",
    "tables",
    "writer",
]
