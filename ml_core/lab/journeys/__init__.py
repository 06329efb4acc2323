"""Whole journeys of several steps: train a challenger, adopt a foreign model, retrain, recalibrate, the example."""

__all__ = ["adopt", "build_bento", "challenger", "example", "new_project", "recalibrate", "retrain", "run_project"]
