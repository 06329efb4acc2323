"""From raw files to the feature store: reading, validating, transforming, splitting."""

__all__ = [
    "cohort",
    "diabetes130",
    "feature_pipeline",
    "feature_store",
    "fetch",
    "frames",
    "raw_tables",
    "schemas",
    "splits",
    "table_blocks",
    "table_frames",
]
