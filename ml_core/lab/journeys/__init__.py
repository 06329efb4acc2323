"""Whole journeys of several steps: train a challenger, adopt a foreign model, retrain, make the example."""

__all__ = ["adopt", "challenger", "example", "retrain"]
