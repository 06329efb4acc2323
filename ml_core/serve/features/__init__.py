"""Feature versions: raw columns in, float32 matrix out, the same for one row and for ten million."""

__all__ = ["column_rules", "record", "table", "v2", "versions"]
