"""The model artefact, its scorers, and the conformal sets it answers with."""

__all__ = [
    "bundle",
    "conformity_scores",
    "groupings",
    "loader",
    "manifest",
    "model_home",
    "prediction_sets",
    "predictor",
    "promotion_record",
    "scorer",
    "vouching",
    "weighted_sets",
]
