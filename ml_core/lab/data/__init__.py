"""From raw files to the feature store: reading, validating, transforming."""

__all__ = [
    "cohort",
    "column_plan",
    "configured_rows",
    "csv_format",
    "diabetes130",
    "feature_pipeline",
    "feature_store",
    "frames",
    "giveaways",
    "kept_tables",
    "people",
    "raw_tables",
    "schemas",
    "table_blocks",
    "table_frames",
    "table_profile",
    "table_questions",
    "table_rows",
]
