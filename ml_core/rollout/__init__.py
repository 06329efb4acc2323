"""Which models are live and how: the state file, its changes, the split of the traffic, the workers' reports."""
