"""Making an artefact: rows, learner, conversion, calibration, evaluation, packing."""
