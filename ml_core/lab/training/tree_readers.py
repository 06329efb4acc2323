"""Finds out which library grew a model's trees, and lets its reader read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ml_core.lab.training.booster_trees import catboost_trees, lightgbm_trees, xgboost_trees
from ml_core.lab.training.sklearn_trees import (
    ada_boost_trees,
    forest_trees,
    gradient_boosting_trees,
    hist_gradient_boosting_trees,
)
from ml_core.serve.model.trees import TreeForm

__all__ = ["sums_in_32_bits", "trees_of"]


def trees_of(model: Any) -> TreeForm | None:
    """The trees of a fitted classifier that is trees and nothing else; None for every other kind.

    Parameters
    ----------
    model : a classifier of XGBoost, LightGBM, CatBoost or scikit-learn, or a ``Booster`` of the first two

    Raises
    ------
    ArtefactError
        They are trees, but of a kind that has no such form; the message says what to train instead.
    """
    for kind in type(model).__mro__:
        reader = _READERS.get((kind.__module__.split(".")[0], kind.__name__))
        if reader is not None:
            return reader(model)
    return None


def sums_in_32_bits(model: Any) -> bool:
    """Whether the library of a model adds up its leaves in 32 bits; all but XGBoost do it in 64."""
    return any(kind.__module__.split(".")[0] == "xgboost" for kind in type(model).__mro__)


def _of_booster(model: Any) -> TreeForm | None:
    return None if "gblinear" in model.save_config() else xgboost_trees(model)


def _of_xgboost(model: Any) -> TreeForm | None:
    booster = model.get_booster()
    if booster.num_boosted_rounds() == 0 or model.get_xgb_params().get("booster") == "gblinear":
        return None
    best = booster.attr("best_iteration")
    if best is not None:  # as its own predict_proba does after early stopping
        booster = booster[: int(best) + 1]
    return xgboost_trees(booster, float("nan") if model.missing is None else float(model.missing))


_READERS: Mapping[tuple[str, str], Callable[[Any], TreeForm | None]] = {
    ("xgboost", "XGBClassifier"): _of_xgboost,
    ("xgboost", "Booster"): _of_booster,
    ("lightgbm", "LGBMClassifier"): lambda model: lightgbm_trees(model.booster_),
    ("lightgbm", "Booster"): lightgbm_trees,
    ("catboost", "CatBoostClassifier"): catboost_trees,
    ("sklearn", "AdaBoostClassifier"): ada_boost_trees,
    ("sklearn", "DecisionTreeClassifier"): forest_trees,
    ("sklearn", "ForestClassifier"): forest_trees,
    ("sklearn", "GradientBoostingClassifier"): gradient_boosting_trees,
    ("sklearn", "HistGradientBoostingClassifier"): hist_gradient_boosting_trees,
}
