"""The state of a model now: its slot, store, gate, promotion and registered versions, and its journal entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ml_core.base.documents import read_document
from ml_core.base.errors import SuretyError
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.past_answers.past_models import loader_of, open_registry
from ml_core.serve.model.promotion_record import PromotionRecord, promotion_path
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["model_now"]


def model_now(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Everything known now about the model that a lineage names, ready for JSON; what cannot be asked says why.

    Parameters
    ----------
    settings : where its traces are
    lineage : as the log has it

    Returns
    -------
    dict
        ``rollout`` (the slot it has now), ``stored`` (whether its tag can be loaded), ``gate``, ``promotion``,
        ``mlflow``, and ``journal``: the entries that name its hash or tag, oldest first.
    """
    model_hash, tag = str(lineage["model_hash"]), str(lineage["bento_tag"])
    names = {model_hash, tag}
    return {
        "rollout": _asked(lambda: _in_rollout(settings, tag)),
        "stored": _asked(lambda: _stored(settings, lineage)),
        "gate": _asked(lambda: _gate(settings, lineage)),
        "promotion": _asked(lambda: _promotion(settings, lineage)),
        "mlflow": _asked(lambda: _in_mlflow(settings, lineage)),
        "journal": [entry for entry in Journal(settings.journal).entries() if _has(entry, names)],
    }


def _asked(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, or the problem: a store that is away must not hide what the others know."""
    try:
        return question()
    except SuretyError as error:
        return {"problem": str(error)}
    except ModuleNotFoundError as error:
        return {"problem": f"{error.name} is not installed here"}


def _in_rollout(settings: Settings, tag: str) -> dict[str, Any]:
    """The slot that the model holds now; None where it holds none."""
    state = RolloutStore(settings).read()
    if state is None:
        return {"slot": None, "champion": None}
    slots = {"champion": state.champion, "challenger": state.challenger, "previous": state.previous}
    return {
        "slot": next((slot for slot, held_by in slots.items() if held_by == tag), None),
        "champion": state.champion,
        "mode": state.mode,
        "weight": state.weight,
        "generation": state.generation,
        "changed_at": state.changed_at,
    }


def _stored(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the tag can still be loaded, and is still the same model."""
    tag = str(lineage["bento_tag"])
    try:
        _, found = loader_of(settings, lineage).facts(tag)
    except SuretyError as error:
        return {"tag": tag, "is_there": False, "problem": str(error)}
    is_same = found == lineage["model_hash"]
    return {"tag": tag, "is_there": is_same, "problem": None if is_same else f"holds another model, of hash {found}"}


def _gate(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What the gate said last of that hash, rule by rule, where a trusted key has signed it."""
    model_hash = str(lineage["model_hash"])
    report = loader_of(settings, lineage).verdict(str(lineage["bento_tag"]), model_hash)
    return (
        {"verdict": "none"}
        if report is None
        else {
            "verdict": "passed" if report.passed else "refused",
            "judged_at": report.judged_at,
            "judged_on": report.judged_on,
            "rules": [rule.model_dump() for rule in report.rules],
        }
    )


def _record(settings: Settings, lineage: Mapping[str, Any]) -> PromotionRecord | None:
    """The promotion record, where it is of that very model."""
    record = read_document(promotion_path(settings.promotions, str(lineage["model_name"])), PromotionRecord)
    return record if record is not None and record.model_hash == lineage["model_hash"] else None


def _promotion(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The record by which it is the champion to serve; earlier promotions are in the journal."""
    record = _record(settings, lineage)
    if record is None:
        return {"is_promoted": False}
    return {"is_promoted": True, **record.model_dump(exclude={"gate", "model_name", "model_hash"})}


def _in_mlflow(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The registered versions with that hash."""
    found = open_registry(settings).versions(str(lineage["model_name"]))
    return {
        "versions": [
            {"version": version.version, "run_id": version.run_id, "aliases": list(version.aliases)}
            for version in found
            if version.model_hash == lineage["model_hash"]
        ]
    }


def _has(value: Any, names: set[str]) -> bool:
    """Whether a JSON value holds one of the names anywhere."""
    if isinstance(value, Mapping):
        return any(_has(part, names) for part in value.values())
    if isinstance(value, list):
        return any(_has(part, names) for part in value)
    return isinstance(value, str) and value in names
