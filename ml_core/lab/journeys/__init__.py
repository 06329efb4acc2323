"""Whole journeys of several steps: train a challenger, adopt a foreign model, retrain, recalibrate, the example."""

__all__ = ["adopt", "challenger", "example", "new_project", "recalibrate", "retrain", "run_project"]
