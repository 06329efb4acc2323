"""Feature versions: raw columns in, float32 matrix out, the same for one row and for ten million."""

__all__ = [
    "column_rules",
    "column_table",
    "record",
    "table",
    "table_versions",
    "v2",
    "versions",
]
