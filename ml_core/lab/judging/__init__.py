"""Verdicts on models: the deployment gate and the promotion."""

__all__ = ["deployment_gate", "promoter", "rule_advice"]
