"""Signed papers of a home: the newest verdict decides, old homes go on, keys change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ml_core.base.documents import write_document
from ml_core.base.errors import ArtefactError, ConfigError, NotGated
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.promotion_record import PromotionRecord, gate_name, promotion_name
from ml_core.serve.model.vouching import (
    copy_papers,
    distrust_key,
    keep_gate,
    keep_promotion,
    rotate_key,
    sign_old_home,
    signed_name,
    trust_key,
)
from ml_core.serve.trust.keys import home_keys, key_fingerprint
from tests.serve.answering.builders import ask
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import NAME, passed_gate


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.promote(made.v1)
    return made


def as_before_signatures(home: Home) -> None:
    """Make it the home of the version before: plain papers, and nothing beside the models."""
    shutil.rmtree(home.settings.trust)
    for path in home.settings.home.rglob("*.signed.json"):
        path.unlink()
    for name in ("gate.json", "promotion.json"):
        for path in home.settings.models.rglob(name):
            path.unlink()
    journal = Journal(home.settings.journal)
    home.settings.journal.unlink(missing_ok=True)
    for tag, version in ((home.v1, "1"), (home.v2, "2")):
        journal.append("gate.judged", {"model": NAME, "version": version, "model_hash": home.hash_of(tag)})


def events(home: Home) -> list[str]:
    return [entry["event"] for entry in Journal(home.settings.journal).entries()]


def test_the_newest_verdict_decides_also_for_a_new_worker(home):
    assert Worker(home).tags() == {"champion": home.v1}
    home.pass_gate(home.v1, passed=False)
    with pytest.raises(NotGated, match="said no"):
        ModelLoader(home.settings).load(home.v1)
    refused = Worker(home)
    assert (refused.live.missing, ask(refused.live).lineage.slot) == (home.v1, "prior")
    assert "said no" in refused.problem
    home.pass_gate(home.v1)
    assert (Worker(home).tags(), Worker(home).live.missing) == ({"champion": home.v1}, "")


def test_a_later_no_of_another_trusted_machine_decides_too(home, tmp_path):
    other = Settings(home=tmp_path / "other", model_name=NAME)
    keep_gate(other, passed_gate(home.hash_of(home.v1), passed=False), "1")
    copy_papers(home.folder(home.v1), NAME, home.hash_of(home.v1), other)
    assert ModelLoader(home.settings).load(home.v1)
    trust_key(home.settings, home_keys(other).keys[0].key, "other")
    with pytest.raises(NotGated, match="said no"):
        ModelLoader(home.settings).load(home.v1)


def test_a_hash_that_was_judged_as_two_versions_is_both(home):
    model_hash = home.hash_of(home.v1)
    again = home.v1.replace(":v1-", ":v7-")
    shutil.copytree(home.folder(home.v1), home.folder(again))
    with pytest.raises(NotGated, match="trusted"):
        ModelLoader(home.settings).load(again)
    keep_gate(home.settings, passed_gate(model_hash), "7")
    assert {ModelLoader(home.settings).load(tag).version for tag in (home.v1, again)} == {"1", "7"}


def test_an_old_home_goes_on_serving_before_and_after_it_signs(home):
    as_before_signatures(home)
    assert ModelLoader(home.settings).load(ModelLoader(home.settings).served_tag()).tag == home.v1
    assert not home.settings.trust.exists()  # looking signs nothing
    sign_old_home(home.settings)
    loader = ModelLoader(home.settings)
    assert loader.load(loader.served_tag()).promotion is not None
    assert {loader.load(tag).tag for tag in (home.v1, home.v2)} == {home.v1, home.v2}
    with pytest.raises(NotGated):
        loader.load(home.v3)
    entry = Journal(home.settings.journal).entries()[-1]
    assert entry["event"] == "trust.began"
    assert len(entry["papers_signed"]) == 3
    sign_old_home(home.settings)
    assert events(home).count("trust.began") == 1


def test_the_first_signature_of_an_old_home_signs_what_lies_there(home):
    as_before_signatures(home)
    home.pass_gate(home.v3)
    assert {ModelLoader(home.settings).load(tag).tag for tag in (home.v1, home.v2, home.v3)} == {
        home.v1,
        home.v2,
        home.v3,
    }


def test_an_old_promotion_without_a_gate_of_its_own_brings_it_along(home):
    as_before_signatures(home)
    (home.settings.home / gate_name(home.hash_of(home.v1))).unlink()
    assert ModelLoader(home.settings).load(home.v1)
    sign_old_home(home.settings)
    assert ModelLoader(home.settings).load(home.v1)


def test_papers_beside_models_are_not_signed_when_an_old_home_begins_to_sign(home):
    as_before_signatures(home)
    (home.folder(home.v3) / "gate.json").write_text(passed_gate(home.hash_of(home.v3)).model_dump_json())
    sign_old_home(home.settings)
    with pytest.raises(NotGated, match="trusted"):
        ModelLoader(home.settings).load(home.v3)


def test_a_plain_paper_that_comes_later_counts_for_nothing(home):
    model_hash = home.hash_of(home.v3)
    write_document((home.settings.home / gate_name(model_hash)), passed_gate(model_hash))
    with pytest.raises(NotGated, match="trusted"):
        ModelLoader(home.settings).load(home.v3)


def test_a_signing_that_was_killed_is_done_again(home, monkeypatch):
    as_before_signatures(home)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ml_core.base.journal.Journal.append", killed)
        with pytest.raises(KeyboardInterrupt):
            sign_old_home(home.settings)
    assert ModelLoader(home.settings).load(home.v1)
    sign_old_home(home.settings)
    assert {ModelLoader(home.settings).load(tag).tag for tag in (home.v1, home.v2)} == {home.v1, home.v2}


def test_after_a_rotation_everything_current_is_signed_with_the_new_key(home):
    old = home_keys(home.settings).keys[0].key
    before = {path: json.loads(path.read_bytes())["payload"] for path in home.settings.home.rglob("*.signed.json")}
    key, count = rotate_key(home.settings, "next year")
    assert count == len(before) == 3
    after = {path: json.loads(path.read_bytes()) for path in before}
    assert {path: e["payload"] for path, e in after.items()} == before  # the same words, in the same order
    assert ModelLoader(home.settings).load(home.v1)
    distrust_key(home.settings, key_fingerprint(old))
    assert [k.key for k in home_keys(home.settings).keys] == [key]
    assert ModelLoader(home.settings).load(home.v1).promotion is not None
    assert events(home)[-2:] == ["trust.rotated", "trust.removed"]
    rotated = Journal(home.settings.journal).entries()[-2]
    assert (rotated["key"], rotated["signed_anew"]) == (key, 3)


def test_what_a_removed_key_has_signed_is_believed_no_longer(home, tmp_path):
    other = Settings(home=tmp_path / "other", model_name=NAME)
    keep_gate(other, passed_gate(home.hash_of(home.v3)), "3")
    key = home_keys(other).keys[0].key
    copy_papers(home.folder(home.v3), NAME, home.hash_of(home.v3), other)
    assert trust_key(home.settings, key, "other")
    assert not trust_key(home.settings, key, "other")
    assert ModelLoader(home.settings).load(home.v3)
    distrust_key(home.settings, key_fingerprint(key))
    with pytest.raises(NotGated, match="trusted"):
        ModelLoader(home.settings).load(home.v3)
    assert events(home)[-2:] == ["trust.added", "trust.removed"]


def test_a_rotation_signs_nothing_that_it_does_not_believe(home, tmp_path):
    other = Settings(home=tmp_path / "other", model_name=NAME)
    keep_gate(other, passed_gate(home.hash_of(home.v3)), "3")
    stolen = other.home / signed_name(gate_name(home.hash_of(home.v3)))
    shutil.copy(stolen, (home.settings.home / signed_name(gate_name(home.hash_of(home.v3)))))
    with pytest.raises(ArtefactError, match="no key that is trusted"):
        rotate_key(home.settings, "next year")
    assert ModelLoader(home.settings).load(home.v1)


def test_a_key_in_the_environment_is_enough(home, tmp_path):
    other = Settings(home=tmp_path / "other", model_name=NAME)
    keep_gate(other, passed_gate(home.hash_of(home.v3)), "3")
    copy_papers(home.folder(home.v3), NAME, home.hash_of(home.v3), other)
    told = home.settings.model_copy(update={"trusted_keys": home_keys(other).keys[0].key})
    assert ModelLoader(told).load(home.v3).gate.passed


def test_no_public_key_is_trusted_by_mistake(home):
    with pytest.raises(ConfigError, match="public key"):
        trust_key(home.settings, "ed25519:AAAA", "nobody")


def test_a_promotion_of_another_model_is_no_promotion_here(home):
    model_hash = home.hash_of(home.v1)
    record = PromotionRecord(
        model_name="other", model_version="1", model_hash=model_hash, bento_tag=home.v1, promoted_at="2026",
        gate=passed_gate(model_hash),
    )  # fmt: skip
    keep_promotion(home.settings, record)
    path = home.settings.home / signed_name(promotion_name(NAME))
    shutil.copy((home.settings.home / signed_name(promotion_name("other"))), path)
    with pytest.raises(ArtefactError, match="not for toy_risk"):
        ModelLoader(home.settings).served_tag()
