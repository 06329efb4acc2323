"""Making an artefact: learner, conversion, scorecard, golden records, packing."""

__all__ = ["evaluation_plots", "foreign_models", "labelled_rows", "learner", "onnx_export", "packing"]
