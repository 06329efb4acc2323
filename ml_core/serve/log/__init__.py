"""The prediction log and the labels: what was answered, and what turned out to be true."""

__all__ = [
    "database",
    "entries",
    "erasure_requests",
    "fields",
    "key_register",
    "label_tables",
    "label_requests",
    "labels",
    "log_files",
    "log_keys",
    "log_places",
    "log_records",
    "logged_answers",
    "prediction_store",
    "reader",
    "segments",
    "writer",
]
