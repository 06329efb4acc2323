"""Models on their way: MLflow, promotion, the journal, and into the Bento store."""
