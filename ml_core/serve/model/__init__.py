"""The model artefact, its scorers, and the conformal sets it answers with."""

__all__ = [
    "bundle",
    "conformity_scores",
    "explanations",
    "groupings",
    "loader",
    "manifest",
    "model_home",
    "prediction_sets",
    "predictor",
    "promotion_record",
    "scorer",
    "trees",
    "vouching",
    "weighted_sets",
]
