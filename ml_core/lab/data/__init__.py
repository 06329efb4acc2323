"""From raw files to the feature store: reading, validating, transforming."""

__all__ = [
    "cohort",
    "diabetes130",
    "feature_pipeline",
    "feature_store",
    "frames",
    "people",
    "raw_tables",
    "schemas",
    "table_blocks",
    "table_frames",
]
