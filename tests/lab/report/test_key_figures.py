from __future__ import annotations

from dataclasses import replace

from ml_core.lab.report.key_figures import key_figures
from tests.lab.report.example_facts import bare_facts, example_facts

EXAMPLE = example_facts(features=12, days=90)


def test_figures_stand_beside_what_they_are_held_against():
    figures = {f.name: f for f in key_figures(EXAMPLE)}
    assert list(figures) == [
        "answers",
        "from a fallback",
        "coverage, class 0",
        "coverage, class 1",
        "area under the curve",
        "features drifted",
    ]
    assert figures["coverage, class 0"].beside == "promised 90 %"
    assert figures["coverage, class 1"].beside == "promised 90 %, alarm on"
    assert figures["area under the curve"].beside == "latest; 0.774 in training"
    assert [f.name for f in key_figures(EXAMPLE) if f.needs_attention] == ["coverage, class 1", "features drifted"]


def test_there_are_no_figures_of_nothing():
    assert key_figures(bare_facts()) == ()


def test_latest_area_is_the_last_one_known():
    assert EXAMPLE.performance is not None
    known = [b.auc for b in EXAMPLE.performance.buckets if b.auc is not None]
    bare = replace(bare_facts(), performance=replace(EXAMPLE.performance, trained_auc=None))
    assert [(f.value, f.beside) for f in key_figures(bare)] == [(f"{known[-1]:.3f}", "latest known")]
