"""Whoever may write model stores and the registry, and nothing else, makes no other model answer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest

from ml_core.base.errors import NotGated, SuretyError
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.promotion_record import bento_tag
from ml_core.serve.model.vouching import keep_gate
from tests.homes import bento_store
from tests.security.figures import record
from tests.security.trust_ways import BROKEN, REGISTRY_WAYS, WAYS, Place, Way, judge_twin, promote_with_papers, rows
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import NAME, passed_gate

SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"
STRANGE = (f"{NAME}:latest", f"{NAME}:v9", f"{NAME}:v1-../..", NAME)


@pytest.fixture(params=["model folders", "Bento store"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    home = Home(tmp_path / "home")
    made = Place(home, tmp_path / "scratch")
    promote_with_papers(made)
    judge_twin(made)
    models = home.settings.models
    if request.param == "model folders":
        with bento_store(tmp_path / "empty"):
            yield made
        return
    models.rename(tmp_path / "models")
    with bento_store(models):
        for tag in (made.v1, made.v2, made.evil, made.refused):
            with bentoml.models.create(tag) as model:
                shutil.copytree((tmp_path / "models").joinpath(*tag.split(":")), model.path, dirs_exist_ok=True)
        yield made


def answering(place: Place) -> dict[str, str]:
    """Full hash by tag of everything that may answer, with nothing known but the tag."""
    loader, found = ModelLoader(place.settings), {}
    for tag in {*loader.tags(), place.v1, place.v2, place.evil, place.refused, *STRANGE}:
        try:
            found[tag] = loader.load(tag).model_hash
        except SuretyError:
            continue
    return found


def test_every_way_is_a_row_of_the_page() -> None:
    table = re.search(r"<!-- ways -->\n(.*?)\n<!-- /ways -->", SECURITY.read_text(), re.DOTALL)
    assert table is not None
    assert table[1].splitlines()[2:] == rows()
    assert len(WAYS) >= 40


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_other_model_answers(place: Place, way: Way) -> None:
    genuine = {place.v1: place.hash_of(place.v1), place.v2: place.hash_of(place.v2)}
    assert answering(place) == genuine
    Worker(place.home)  # the rollout begins with v1
    way.make(place)
    found = answering(place)
    assert found.items() <= genuine.items()
    worker = Worker(place.home)
    live = worker.service.live
    assert live is None or live.champion.model.model_hash == genuine[place.v1]
    # What is left of the champion, verified against its full hash, may answer flagged; its model does not.
    assert (live is None or live.missing == place.v1) == (way.outcome == BROKEN)
    asked = place.settings.model_copy(update={"model": place.v1})
    by_tag = Worker(place.home, settings=asked).service.live
    assert by_tag is None or by_tag.champion.model.model_hash == genuine[place.v1]


def test_the_ways_are_counted() -> None:
    record(
        "ways to make another model answer",
        "somebody who may write to every model store, but not to home, image or environment, makes no other model answer",
        {"ways": len(WAYS) + len(REGISTRY_WAYS), "other models that answered": 0},
    )


def test_a_model_with_the_same_eight_digits_is_refused_however_it_is_found(tmp_path: Path) -> None:
    """Judged and promoted was a model whose first eight digits are those of the attacker's."""
    home = Home(tmp_path / "home")
    evil = home.hash_of(home.v3)
    genuine = evil[:8] + "0" * 56
    assert bento_tag(NAME, "3", genuine) == home.v3
    keep_gate(home.settings, passed_gate(genuine), "3")
    with pytest.raises(NotGated, match="stands for 2 models"):
        ModelLoader(home.settings).load(home.v3)
    with pytest.raises(SuretyError, match="expected 0|expected " + genuine[:12]):
        ModelLoader(home.settings).load(home.v3, genuine)
    keep_gate(home.settings, passed_gate(evil), "3")
    with pytest.raises(NotGated, match="stands for 2 models"):
        ModelLoader(home.settings).load(home.v3)
    assert ModelLoader(home.settings).load(home.v3, evil).model_hash == evil


def test_a_copy_of_the_store_is_worth_nothing_in_another_home(place: Place, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    shutil.rmtree(other.settings.models)
    shutil.rmtree(other.settings.trust)
    shutil.rmtree(other.settings.gates)
    shutil.copytree(place.settings.models, other.settings.models)
    for tag in (place.v1, place.v2, place.evil):
        with pytest.raises(NotGated, match="trusted"):
            ModelLoader(other.settings).load(tag)
