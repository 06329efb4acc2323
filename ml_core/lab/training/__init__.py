"""Making an artefact: labelled rows and their split, learner, conversion, scorecard, golden records, packing."""

__all__ = [
    "counted_rows",
    "declared_groups",
    "foreign_models",
    "labelled_rows",
    "learner",
    "native_models",
    "onnx_export",
    "packing",
    "recalibrating",
    "weighting",
]
