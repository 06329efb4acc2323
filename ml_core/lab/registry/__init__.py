"""MLflow, the Bento store and the model card."""

__all__ = ["card_text", "importer", "model_card", "model_registry", "tracking"]
