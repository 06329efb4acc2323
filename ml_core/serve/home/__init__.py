"""Where what a service must remember lies: a folder on one machine, or a database and an object store for many."""

__all__ = [
    "homes",
    "object_stores",
    "postgres",
    "stores",
    "table_stores",
    "tables",
]
