"""Where what a service must remember lies: a folder on one machine, or a database and an object store for many."""

__all__ = [
    "database_tables",
    "homes",
    "object_stores",
    "postgres",
    "postgres_tables",
    "sqlite_tables",
    "stores",
    "table_stores",
    "tables",
]
