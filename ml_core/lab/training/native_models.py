"""The model of an artefact in its library's own form, to compare the served form with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.boosting_learners import catboost_proba, lightgbm_proba, read_catboost, read_lightgbm
from ml_core.lab.training.onnx_export import TREE_LIMIT
from ml_core.lab.training.xgboost_learner import booster_proba
from ml_core.serve.model.bundle import CATBOOST_FILE, LIGHTGBM_FILE, XGBOOST_FILE

__all__ = ["NativeAnswers", "native_answers"]


@dataclass(frozen=True, eq=False)
class NativeAnswers:
    """What a library itself says of rows.

    Attributes
    ----------
    proba : class probabilities, float64 (n, K)
    limit : largest difference from them that rounding explains
    """

    proba: npt.NDArray[np.float64]
    limit: float


def native_answers(folder: Path, file: str, features: FeatureMatrix, n_classes: int) -> NativeAnswers:
    """What the library itself says of the rows of a matrix (n, d).

    Parameters
    ----------
    file : one of ``NATIVE_FILES`` that is in the folder

    Raises
    ------
    ArtefactError
        The library cannot read it, or is not installed.
    """
    read, proba = _BY_FILE[file]
    try:
        model = read((folder / file).read_bytes())
        limit = xgboost_trees(model).rounding if file == XGBOOST_FILE else TREE_LIMIT
        return NativeAnswers(proba(model, features, n_classes), limit)
    except ConfigError as error:
        raise ArtefactError(file, str(error)) from error
    except Exception as error:  # each library has errors of its own for a file that is none of its models
        raise ArtefactError(file, f"cannot be used: {type(error).__name__}") from error


def _read_xgboost(raw: bytes) -> Any:
    import xgboost

    return xgboost.Booster(model_file=bytearray(raw))


_Read = Callable[[bytes], Any]
_Proba = Callable[[Any, FeatureMatrix, int], npt.NDArray[np.float64]]
_BY_FILE: dict[str, tuple[_Read, _Proba]] = {
    XGBOOST_FILE: (_read_xgboost, lambda model, features, _: booster_proba(model, features)),
    LIGHTGBM_FILE: (read_lightgbm, lambda model, features, _: lightgbm_proba(model, features)),
    CATBOOST_FILE: (read_catboost, catboost_proba),
}
