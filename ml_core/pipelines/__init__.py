"""Whole journeys: train a challenger, gate it, promote it, adopt a foreign model, make the example."""
