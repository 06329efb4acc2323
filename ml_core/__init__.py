"""Surety in two wings: `serve` answers requests, `lab` makes, judges and watches models; both stand on `base`."""
