"""Looking after the prediction log: verify, seal, prune, erase, import labels."""

__all__ = ["chain_check", "erasure", "journal_marks", "label_import", "log_overview", "retention", "sealing"]
