"""The report: everything a monitored model has to say for itself, on one page and as JSON."""
