from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_core.lab.report.collect_models import KnownModel, known_models, label_words, model_facts
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from tests.folder_files import rollout_file
from tests.homes import bento_store
from tests.serve.answering.stored import Home, Worker, with_other_columns

DATES = {"model.registered": "2026-01-01T08:00:00.000000Z", "promotion.recorded": "2026-02-01T08:00:00.000000Z"}


@pytest.fixture
def home(tmp_path):
    """v1 is live, v2 in shadow."""
    with bento_store(tmp_path / "bento"):
        home = Home(tmp_path / "home")
        home.promote(home.v1)
        Worker(home)
        home.change(changes.shadow(home.v2))
        yield home


def known(home, gaps=None) -> tuple[KnownModel, ...]:
    return known_models(home.settings, ModelLoader(home.settings), home.store.read(), gaps or Gaps())


def test_models_are_those_in_the_rollouts_slots(home):
    home.change(changes.full(home.v2))
    assert [(m.slot, m.tag) for m in known(home)] == [("champion", home.v2), ("previous", home.v1)]


def test_a_model_that_is_gone_leaves_a_gap_and_the_others_are_told(home):
    home.file(home.v1).unlink()
    gaps = Gaps()
    assert [m.slot for m in known(home, gaps)] == ["challenger"]
    assert {gap.part for gap in gaps.found} == {"models", "lineage"}
    assert f"the champion, {home.v1}: model.onnx: is named in the manifest but missing." == gaps.found[0].reason


def test_what_the_registry_knows_is_taken_from_the_journal(home):
    challenger = known(home)[1]
    model_hash = challenger.loaded.model_hash
    entries = [{"event": event, "at": at, "by": "lee", "model_hash": model_hash} for event, at in DATES.items()]
    told = model_facts(challenger, entries)
    assert told.trained_at == datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert (told.promoted_at, told.promoted_by) == (datetime(2026, 2, 1, 8, tzinfo=UTC), "lee")


def test_entries_on_other_models_or_without_a_time_say_nothing(home):
    challenger = known(home)[1]
    other = {"event": "model.registered", "at": DATES["model.registered"], "model_hash": "ff" * 32}
    timeless = {"event": "model.registered", "model_hash": challenger.loaded.model_hash}
    told = model_facts(challenger, [other, timeless])
    assert (told.trained_at, told.promoted_at, told.promoted_by) == (None, None, "")


def test_labels_are_told_in_the_words_of_their_column(home):
    words = {"1": "readmitted within 30 days of discharge", "0": "not readmitted within 30 days of discharge"}
    assert label_words(known(home)) == words
    home.promote(home.add("7", with_other_columns()))  # of feature version v2
    rollout_file(home.settings).unlink()
    assert label_words(known(home)) == words
    assert label_words(()) == {}
