"""The verbs of `surety` as scripts of a checkout, and `docs/`, which makes the reference pages."""
