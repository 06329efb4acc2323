"""Old answers looked at again: replay, audit, batch scoring."""

__all__ = ["audit", "batch_scoring", "explained", "folder_scoring", "replay", "replayer"]
