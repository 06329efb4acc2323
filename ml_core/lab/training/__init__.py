"""Making an artefact: labelled rows and their split, learner, conversion, scorecard, golden records, packing."""

__all__ = ["foreign_models", "labelled_rows", "learner", "onnx_export", "packing"]
