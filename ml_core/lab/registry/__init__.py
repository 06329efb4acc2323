"""MLflow, the Bento store, the model card, and a copy in Weights & Biases."""

__all__ = [
    "card_chai",
    "importer",
    "model_card",
    "model_registry",
    "model_signature",
    "paper_copies",
    "registry_protocol",
    "tracking",
    "wandb_mirror",
]
