"""Drift: whether the rows of now still look like those a model was made of. Arrays in, reports out; build side only."""
