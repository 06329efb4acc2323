"""Watching what is served: metrics, guards, the monitor."""
