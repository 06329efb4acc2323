"""Whole journeys: the pre-deployment gate."""
