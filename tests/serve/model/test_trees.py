"""Trees as an artefact holds them: walked, they give what the served model gives; damaged, they are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.lab.training.tree_readers import trees_of
from ml_core.serve.model.scorer import OnnxScorer
from ml_core.serve.model.trees import TreeForm
from tests.grown_trees import CASES, KINDS, D, asked


@pytest.mark.parametrize(("name", "k"), CASES, ids=str)
def test_a_walk_gives_the_probabilities_of_the_served_model(name, k):
    form = trees_of(KINDS[name](k)[0])
    matrix = asked(form, 1_000, gaps=not name.startswith("gradient"))
    served = OnnxScorer(trees_to_onnx(form, D), D, form.n_classes).proba(matrix)
    assert np.abs(form.probabilities(matrix) - served).max() < 1e-12


DAMAGED = {
    "has arrays of different lengths": lambda form: {"yes": form.yes[:-1]},
    "has nodes that are no trees": lambda form: {"no": form.yes},
    "has trees of no class": lambda form: {"targets": form.targets + 9},
}


@pytest.mark.parametrize("words", DAMAGED)
def test_nodes_that_are_no_trees_are_refused(words):
    form = trees_of(KINDS["xgboost"](2)[0])
    with pytest.raises(ArtefactError, match=words):
        TreeForm.from_bytes(replace(form, **DAMAGED[words](form)).to_bytes())


def test_a_cycle_is_refused():
    form = trees_of(KINDS["xgboost"](2)[0])
    yes = form.yes.copy()
    yes[int(form.yes[form.roots[0]])] = form.roots[0]  # back to the root
    with pytest.raises(ArtefactError, match="has nodes that are no trees"):
        TreeForm.from_bytes(replace(form, yes=yes).to_bytes())


@pytest.mark.parametrize("raw", [b"", b"PK", b"\x93NUMPY", b"{}"])
def test_other_bytes_are_refused(raw):
    with pytest.raises(ArtefactError, match="cannot be read"):
        TreeForm.from_bytes(raw)
