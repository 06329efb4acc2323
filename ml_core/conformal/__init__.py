"""Conformal prediction sets on plain arrays."""
