"""Looking after a home as a whole: bring its tables up to date, see whether it is whole, copy it to another engine."""

__all__ = ["copying", "migration", "whole_check"]
