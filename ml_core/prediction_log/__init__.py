"""The prediction log: every answer with what led to it, and the labels that came later."""
