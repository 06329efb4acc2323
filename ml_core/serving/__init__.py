"""Answering requests: the runner and the inference core."""
