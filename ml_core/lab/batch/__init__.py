"""Many files at once: where tables lie, what work they make, and who does it."""

__all__ = ["engines", "object_files", "row_groups", "table_places"]
