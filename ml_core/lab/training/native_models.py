"""The model of an artefact in its library's own form, to compare the served form with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.lab.training.boosting_learners import catboost_proba, lightgbm_proba, read_catboost, read_lightgbm
from ml_core.lab.training.xgboost_learner import booster_proba
from ml_core.serve.model.bundle import CATBOOST_FILE, LIGHTGBM_FILE, XGBOOST_FILE

__all__ = ["native_probabilities"]

_Proba = Callable[[bytes, FeatureMatrix, int], npt.NDArray[np.float64]]


def native_probabilities(folder: Path, file: str, features: FeatureMatrix, n_classes: int) -> npt.NDArray[np.float64]:
    """What the library itself says of the rows, float64 (n, K).

    Parameters
    ----------
    file : one of ``NATIVE_FILES`` that is in the folder

    Raises
    ------
    ArtefactError
        The library cannot read it, or is not installed.
    """
    try:
        return _BY_FILE[file]((folder / file).read_bytes(), features, n_classes)
    except ConfigError as error:
        raise ArtefactError(file, str(error)) from error
    except Exception as error:  # each library has errors of its own for a file that is none of its models
        raise ArtefactError(file, f"cannot be used: {type(error).__name__}") from error


def _xgboost(raw: bytes, features: FeatureMatrix, n_classes: int) -> npt.NDArray[np.float64]:  # noqa: ARG001 - one form
    import xgboost

    return booster_proba(xgboost.Booster(model_file=bytearray(raw)), features)


def _lightgbm(raw: bytes, features: FeatureMatrix, n_classes: int) -> npt.NDArray[np.float64]:  # noqa: ARG001 - one form
    return lightgbm_proba(read_lightgbm(raw), features)


def _catboost(raw: bytes, features: FeatureMatrix, n_classes: int) -> npt.NDArray[np.float64]:
    return catboost_proba(read_catboost(raw), features, n_classes)


_BY_FILE: dict[str, _Proba] = {XGBOOST_FILE: _xgboost, LIGHTGBM_FILE: _lightgbm, CATBOOST_FILE: _catboost}
