"""MLflow, the Bento store and the model card."""

__all__ = ["importer", "model_card", "model_registry", "model_signature", "paper_copies", "tracking", "wandb_mirror"]
