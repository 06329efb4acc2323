"""Ways to make another model answer, for somebody who may write model stores and the registry, and nothing else.

Every way is a row of the table in docs/security.md; ``python -m tests.security.trust_ways`` prints the rows.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from ml_core.base.settings import Settings
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.promotion_record import PromotionRecord, bento_tag, gate_name
from ml_core.serve.model.vouching import (
    GATE_IN_BENTO_MODEL,
    PROMOTION_IN_BENTO_MODEL,
    copy_papers,
    keep_gate,
    keep_promotion,
    signed_name,
)
from ml_core.serve.trust.statements import pae
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, passed_gate

__all__ = ["REGISTRY_WAYS", "WAYS", "Place", "Way", "rows"]

Outcome = Literal["the champion answers, the other model is refused", "nothing answers under the changed tag"]
KEPT: Outcome = "the champion answers, the other model is refused"
BROKEN: Outcome = "nothing answers under the changed tag"


class Place:
    """What the attacker finds.

    Attributes
    ----------
    home : v1 is the champion, v2 an older gated model, v3 was never judged; read only for the attacker but for models
    refused : tag of v3's twin, judged with "yes" first and with "no" later
    evil : tag of v3, which must never answer
    scratch : the attacker's own folder
    """

    def __init__(self, home: Home, scratch: Path) -> None:
        self.home = home
        self.settings = home.settings
        self.v1, self.v2, self.evil = home.v1, home.v2, home.v3
        self.refused = bento_tag(NAME, "4", home.hash_of(home.v3))
        shutil.copytree(home.folder(home.v3), home.folder(self.refused))
        self.scratch = scratch
        self.own = Settings(home=scratch / "own", model_name=NAME)
        scratch.mkdir()

    def folder(self, tag: str) -> Path:
        return self.home.folder(tag)

    def bundle(self, tag: str) -> Path:
        return self.folder(tag) / BUNDLE_IN_BENTO_MODEL

    def hash_of(self, tag: str) -> str:
        return self.home.hash_of(tag)

    def gate(self, tag: str) -> Path:
        return self.folder(tag) / GATE_IN_BENTO_MODEL

    def promotion(self, tag: str) -> Path:
        return self.folder(tag) / PROMOTION_IN_BENTO_MODEL

    def put(self, bundle_of: str, tag: str) -> None:
        """Put the artefact of one tag in the place of another's."""
        source = self.bundle(bundle_of)
        kept = self.scratch / f"kept-{len(list(self.scratch.iterdir()))}"
        shutil.copytree(source, kept)
        shutil.rmtree(self.bundle(tag), ignore_errors=True)
        shutil.copytree(kept, self.bundle(tag))

    def edited(self, path: Path, **changes: object) -> None:
        """Change fields of a signed statement without the key."""
        envelope = json.loads(path.read_bytes())
        statement = json.loads(base64.b64decode(envelope["payload"]))
        envelope["payload"] = base64.b64encode(orjson.dumps({**statement, **changes})).decode()
        path.write_text(json.dumps(envelope))

    def stranger_judges(self, tag: str, version: str = "3") -> None:
        """A verdict signed with the attacker's own key."""
        keep_gate(self.own, passed_gate(self.hash_of(tag)), version)
        copy_papers(self.folder(tag), NAME, self.hash_of(tag), self.own)


@dataclass(frozen=True, slots=True)
class Way:
    """One way.

    Attributes
    ----------
    name : as the table tells it
    make : does it
    outcome : what must come of it
    """

    name: str
    make: Callable[[Place], object]
    outcome: Outcome = KEPT


def _plain_report(place: Place, tag: str) -> None:
    place.gate(tag).write_text(passed_gate(place.hash_of(tag)).model_dump_json())


def _plain_record(place: Place, tag: str) -> None:
    place.promotion(tag).write_text(_record(place.hash_of(tag), tag).model_dump_json())


def _record(model_hash: str, tag: str, name: str = NAME) -> PromotionRecord:
    return PromotionRecord(
        model_name=name, model_version=tag.rpartition(":v")[2].partition("-")[0], model_hash=model_hash, bento_tag=tag,
        promoted_at="2099-01-01T00:00:00.000000Z", gate=passed_gate(model_hash),
    )  # fmt: skip


def _envelope(place: Place, tag: str, **changes: Any) -> None:
    envelope = json.loads(place.gate(place.v1).read_bytes())
    place.gate(tag).write_text(json.dumps({**envelope, **changes}))


def _claimed_key(place: Place) -> None:
    place.stranger_judges(place.evil)
    theirs = json.loads(place.gate(place.v1).read_bytes())["signatures"][0]["keyid"]
    envelope = json.loads(place.gate(place.evil).read_bytes())
    envelope["signatures"][0]["keyid"] = theirs
    place.gate(place.evil).write_text(json.dumps(envelope))


def _both_signatures(place: Place) -> None:
    place.stranger_judges(place.evil)
    envelope = json.loads(place.gate(place.evil).read_bytes())
    envelope["signatures"] += json.loads(place.gate(place.v1).read_bytes())["signatures"]
    place.gate(place.evil).write_text(json.dumps(envelope))


def _key_beside(place: Place) -> None:
    place.stranger_judges(place.evil)
    keys = (place.own.trust / "keys.json").read_bytes()
    for path in (place.folder(place.evil) / "trust" / "keys.json", place.settings.models / "trust" / "keys.json"):
        path.parent.mkdir(parents=True)
        path.write_bytes(keys)


def _other_type(place: Place) -> None:
    """The envelope of a statement says that it is something else, and something else says that it is a statement."""
    _envelope(place, place.evil, payloadType="application/vnd.in-toto+json")


def _twice(place: Place) -> None:
    place.stranger_judges(place.evil)
    stolen, own = (place.gate(tag).read_text() for tag in (place.v1, place.evil))
    place.gate(place.evil).write_text(f"{own.rstrip()[:-1]}, {stolen.lstrip()[1:]}")


def _replayed_yes(place: Place) -> None:
    """The verdict that was true until the gate said no."""
    (place.folder(place.refused) / GATE_IN_BENTO_MODEL).write_bytes((place.scratch / "old-yes.json").read_bytes())


def _swapped(place: Place) -> None:
    one, other = place.folder(place.v1), place.folder(place.v2)
    one.rename(place.scratch / "one")
    other.rename(one)
    (place.scratch / "one").rename(other)


def _swapped_papers(place: Place) -> None:
    one, other = place.gate(place.v1).read_bytes(), place.gate(place.v2).read_bytes()
    place.gate(place.v1).write_bytes(other)
    place.gate(place.v2).write_bytes(one)


def _moved(place: Place, source: str, version: str) -> None:
    """A whole model with its papers under the tag of another version."""
    tag = bento_tag(NAME, version, place.hash_of(source))
    shutil.copytree(place.folder(source), place.folder(tag))


def _taken_place(place: Place) -> None:
    """v1 is taken away, and v2 is there as version 1."""
    _moved(place, place.v2, "1")
    shutil.rmtree(place.folder(place.v1))


def _linked(place: Place) -> None:
    shutil.rmtree(place.bundle(place.v1))
    place.bundle(place.v1).symlink_to(place.bundle(place.evil))


def _linked_model(place: Place) -> None:
    (place.bundle(place.v1) / "model.onnx").unlink()
    (place.bundle(place.v1) / "model.onnx").symlink_to(place.bundle(place.evil) / "model.onnx")


def _hard_linked(place: Place) -> None:
    (place.bundle(place.v1) / "model.onnx").unlink()
    os.link(place.bundle(place.evil) / "model.onnx", place.bundle(place.v1) / "model.onnx")


def _all_but_manifest(place: Place) -> None:
    for path in place.bundle(place.evil).iterdir():
        if path.name != "manifest.json":
            shutil.copy(path, place.bundle(place.v1) / path.name)


def _named_like(place: Place) -> None:
    """The other model's manifest lists the champion's files under the other model's name."""
    shutil.copy(place.bundle(place.evil) / "manifest.json", place.bundle(place.v1) / "manifest.json")


def _with(name: str, content: bytes = b"x") -> Callable[[Place], object]:
    def make(place: Place) -> None:
        path = place.bundle(place.v1) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return make


def _linked_gate(place: Place) -> None:
    signed = place.settings.home / signed_name(gate_name(place.hash_of(place.v1)))
    place.gate(place.evil).symlink_to(signed)


def _pipe(place: Place) -> None:
    os.mkfifo(place.gate(place.evil))


def _huge(place: Place) -> None:
    place.gate(place.evil).write_bytes(b"{}")
    os.truncate(place.gate(place.evil), 3 << 30)


def _bent(place: Place, **changes: object) -> None:
    """The champion's verdict with other contents."""
    shutil.copy(place.gate(place.v1), place.gate(place.evil))
    place.edited(place.gate(place.evil), **changes)


def _flipped(place: Place) -> None:
    """The newest "no", turned into a yes."""
    facts = passed_gate(place.hash_of(place.evil)).model_dump(mode="json")
    shutil.copy(place.scratch / "no.json", place.gate(place.refused))
    place.edited(place.gate(place.refused), facts=facts)


def _labels(place: Place) -> None:
    (place.folder(place.evil) / "model.yaml").write_text(
        f"name: {NAME}\nversion: v1\nlabels: {{gate: passed, model_hash: '{place.hash_of(place.evil)}'}}\n"
    )


def _other_name(place: Place) -> None:
    """The champion's own verdict and artefact under the name of another model."""
    tag = place.v1.replace(NAME, "other_risk")
    shutil.copytree(place.folder(place.v1), place.folder(tag))


def _half_placed(place: Place) -> None:
    shutil.copytree(place.folder(place.evil), place.settings.models / ".placing-x" / "model")
    latest = place.settings.models / NAME / "latest"
    latest.unlink(missing_ok=True)
    shutil.copytree(place.folder(place.evil), latest)
    (place.settings.models / NAME / "v9").mkdir()


def _cut(share: float) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        raw = place.gate(place.v1).read_bytes()
        place.gate(place.evil).write_bytes(raw[: int(share * len(raw))])

    return make


def _own_type(place: Place) -> None:
    """A signature over the bare statement, without the type that a DSSE signature covers."""
    envelope = json.loads(place.gate(place.v1).read_bytes())
    payload = base64.b64encode(pae(envelope["payloadType"], base64.b64decode(envelope["payload"]))).decode()
    place.gate(place.evil).write_text(json.dumps({**envelope, "payload": payload}))


def _ways() -> Iterator[Way]:
    yield Way("a forged gate report beside the model", lambda p: _plain_report(p, p.evil))
    yield Way("a forged gate report beside a model that the gate refused", lambda p: _plain_report(p, p.refused))
    yield Way("a forged promotion record beside it", lambda p: _plain_record(p, p.evil))
    yield Way("both are forged", lambda p: (_plain_report(p, p.evil), _plain_record(p, p.evil)))
    yield Way("a verdict signed with a key of one's own", lambda p: p.stranger_judges(p.evil))
    yield Way("the same, with the fingerprint of a trusted key", _claimed_key)
    yield Way("the same, with a trusted key's signature of something else beside it", _both_signatures)
    yield Way("the same, with one's own public key beside the model", _key_beside)
    yield Way("the same, and a trusted envelope in the same file", _twice)
    yield Way("a verdict without its signature", lambda p: _envelope(p, p.evil, signatures=[]))
    yield Way("a verdict with another type", _other_type)
    yield Way("a verdict whose payload is the text that was signed", _own_type)
    yield Way("a verdict edited to another hash", lambda p: _bent(p, model_hash=p.hash_of(p.evil)))
    yield Way("a verdict edited to another version", lambda p: _bent(p, versions=["1", "2", "3", "4"]))
    yield Way("a verdict edited to a later time", lambda p: _bent(p, stated_at="2099-01-01T00:00:00.000000Z"))
    yield Way("a refusal edited to a yes", _flipped)
    yield Way("half a verdict", _cut(0.5))
    yield Way("an empty verdict", _cut(0.0))
    yield Way("a verdict without its last byte", _cut(0.999))
    yield Way("a verdict of three gigabytes", _huge)
    yield Way("a pipe in the place of a verdict", _pipe)
    yield Way("a folder in the place of a verdict", lambda p: p.gate(p.evil).mkdir())
    yield Way("a link to the champion's verdict in the home", _linked_gate)
    yield Way("the champion's verdict beside another model", lambda p: shutil.copy(p.gate(p.v1), p.gate(p.evil)))
    yield Way("the champion's promotion beside another model",
              lambda p: (shutil.copy(p.gate(p.v1), p.gate(p.evil)), shutil.copy(p.promotion(p.v1), p.promotion(p.evil))))  # fmt: skip
    yield Way("a promotion in the place of a verdict", lambda p: shutil.copy(p.promotion(p.v1), p.gate(p.evil)))
    yield Way("a verdict in the place of a promotion", lambda p: shutil.copy(p.gate(p.v1), p.promotion(p.evil)))
    yield Way("the verdicts of two models, swapped", _swapped_papers)
    yield Way("an old yes, after the gate said no", _replayed_yes)
    yield Way("the later no removed from beside the model", lambda p: p.gate(p.refused).unlink(missing_ok=True))
    yield Way("another model's files under the champion's tag", lambda p: p.put(p.evil, p.v1), BROKEN)
    yield Way("an older gated model under the champion's tag", lambda p: p.put(p.v2, p.v1), BROKEN)
    yield Way("two gated models and their signed files, swapped", _swapped, BROKEN)
    yield Way("an older gated model and its signed files under a newer version", lambda p: _moved(p, p.v2, "9"))
    yield Way("an older gated model as the champion's version, the champion removed", _taken_place, BROKEN)
    yield Way("the champion and its signed files under the name of another model", _other_name)
    yield Way("the champion's folder replaced by a link to another model", _linked, BROKEN)
    yield Way("the champion's `model.onnx` replaced by a link to another model's", _linked_model, BROKEN)
    yield Way("the champion's `model.onnx` replaced by a hard link to another model's", _hard_linked, BROKEN)
    yield Way("the champion's manifest over another model's files", _all_but_manifest, BROKEN)
    yield Way("another model's manifest over the champion's files", _named_like, BROKEN)
    yield Way("a pickle beside the champion's files", _with("model.pkl"), BROKEN)
    yield Way("code beside the champion's files", _with("code/__init__.py"), BROKEN)
    yield Way("labels in the store that say the gate has passed", _labels)
    yield Way("unfinished folders, `latest`, and a tag without digits of the hash", _half_placed)
    yield Way("the champion removed", lambda p: shutil.rmtree(p.folder(p.v1)), BROKEN)


WAYS = tuple(_ways())

REGISTRY_WAYS = tuple(
    Way(name, lambda _: None, outcome)
    for name, outcome in (
        ("the registry's champion alias on another version", KEPT),
        ("tags of a passed gate on another version", KEPT),
        ("another model's files delivered as the champion's version", BROKEN),
        ("the same, with the hash in the registry changed as well", BROKEN),
        ("the same, with the hash taken out of the registry", BROKEN),
        ("the same, with a gate report in MLflow's folder", BROKEN),
        ("a file more in the champion's folder", BROKEN),
        ("code, a pickle and requirements in MLflow's folder", KEPT),
    )
)
"""What a registry delivers; tests/security/test_trust_registry.py does it."""


def judge_twin(place: Place) -> None:
    """Version 4 was judged with yes, which the attacker kept a copy of, and later with no, which is kept too."""
    model_hash = place.hash_of(place.evil)
    for passed, copy in ((True, "old-yes.json"), (False, "no.json")):
        keep_gate(place.settings, passed_gate(model_hash, passed=passed), "4")
        copy_papers(place.folder(place.refused), NAME, model_hash, place.settings)
        shutil.copy(place.gate(place.refused), place.scratch / copy)


def promote_with_papers(place: Place) -> None:
    """v1 is promoted, and its signed papers lie beside it."""
    keep_promotion(place.settings, _record(place.hash_of(place.v1), place.v1).model_copy(
        update={"promoted_at": "2026-01-01T00:00:00.000000Z"}))  # fmt: skip
    copy_papers(place.folder(place.v1), NAME, place.hash_of(place.v1), place.settings)


def rows(ways: tuple[Way, ...] = WAYS + REGISTRY_WAYS) -> list[str]:
    """Rows of the table in docs/security.md."""
    return [f"| {way.name} | {way.outcome} |" for way in ways]


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows()) + "\n")
