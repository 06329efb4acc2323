"""Models of a home by hash: from Bento store and folder to the objects of another home, or from objects to a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_core.base.errors import ArtefactError, NotLoaded
from ml_core.base.settings import Settings
from ml_core.lab.home_care.known_models import of_model
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.home.stores import Objects
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.model_home import home_folder, place
from ml_core.serve.model.model_objects import fetch_model, upload_model
from ml_core.serve.model.promotion_record import plain_promotion
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["ModelsSeen", "NeededModel", "copy_models", "needed_models"]


@dataclass(frozen=True, slots=True)
class NeededModel:
    """A model that answers, may be gone back to, or is promoted.

    Attributes
    ----------
    slot : champion, challenger, previous, or promoted
    model_hash : in full; "" where the rollout of an earlier release names none
    """

    model: str
    slot: str
    tag: str
    model_hash: str


@dataclass(frozen=True, slots=True)
class ModelsSeen:
    """What was copied.

    Attributes
    ----------
    hashes : of the models that the target has, by tag
    changed : how many were not there before
    left : tags that were left out, since they are not whole and nothing needs them; why, in words
    """

    hashes: dict[str, str]
    changed: int
    left: dict[str, str]


def needed_models(settings: Settings, names: Sequence[str]) -> list[NeededModel]:
    """The models that a home's rollouts and promotions name, each once.

    Raises
    ------
    ArtefactError, HomeUnreachable
        A rollout state or promotion record cannot be read.
    """
    found: dict[str, NeededModel] = {}
    for each in (each for name in names for each in _needed(of_model(settings, name), name)):
        found.setdefault(each.tag, each)
    return list(found.values())


def copy_models(source: Settings, target: Settings, names: Sequence[str]) -> ModelsSeen:
    """Bring every whole model of these names to the target; those that are needed must be whole.

    Raises
    ------
    NotLoaded, ArtefactError
        A model that is needed is nowhere, or is not the one of its hash.
    HomeUnreachable, OSError
        One of the two homes cannot be used now.
    """
    needed = {each.tag: each.model_hash for each in needed_models(source, names)}
    tags = sorted({*needed, *(tag for name in names for tag in ModelLoader(of_model(source, name)).tags())})
    hashes: dict[str, str] = {}
    left: dict[str, str] = {}
    changed = 0
    for tag in tags:
        try:
            hashes[tag], is_new = _copy(source, target, tag, needed.get(tag, ""))
            changed += is_new
        except (ArtefactError, NotLoaded) as error:
            if tag in needed:
                raise
            left[tag] = str(error)
    return ModelsSeen(hashes, changed, left)


def _needed(settings: Settings, name: str) -> Iterator[NeededModel]:
    state = RolloutStore(settings).read()
    for slot in ("champion", "challenger", "previous") if state is not None else ():
        tag = getattr(state, slot)
        if tag is not None and state is not None:
            yield NeededModel(name, slot, tag, state.hashes.get(tag, ""))
    record = plain_promotion(settings, name)
    if record is not None:
        yield NeededModel(name, "promoted", record.bento_tag, record.model_hash)


def _copy(source: Settings, target: Settings, tag: str, model_hash: str) -> tuple[str, bool]:
    """Hash of the model in the target, and whether it was not there."""
    objects, folder = objects_of(target), home_folder(tag, target)
    if objects is None and folder.is_dir():
        with suppress(ArtefactError):
            return _verified(folder, tag, model_hash), False
    shared = objects_of(source)
    if objects is None and shared is not None and fetch_model(shared, tag, model_hash, target) is not None:
        return _verified(folder, tag, model_hash), True
    origin = ModelLoader(source).artefact(tag).parents[len(Path(BUNDLE_IN_BENTO_MODEL).parts) - 1]
    found = _verified(origin, tag, model_hash)
    if objects is None:
        place(origin, tag, target)
        return _verified(folder, tag, found), True
    if _is_there(objects, tag, found, target):
        return found, False
    return upload_model(objects, tag, origin), True


def _is_there(objects: Objects, tag: str, model_hash: str, target: Settings) -> bool:
    with TemporaryDirectory(prefix="surety-model-") as folder:
        apart = target.model_copy(update={"home": Path(folder)})
        try:
            found = fetch_model(objects, tag, model_hash, apart)
        except ArtefactError:
            return False
    return found is not None and _tag_says(objects, tag, model_hash)


def _tag_says(objects: Objects, tag: str, model_hash: str) -> bool:
    name, _, version = tag.partition(":")
    return objects.get(f"tags/{name}/{version}", len(model_hash)) == model_hash.encode()


def _verified(folder: Path, tag: str, model_hash: str) -> str:
    """Full hash of the model under a tag in a folder.

    Raises
    ------
    ArtefactError
        It is not whole, or another one.
    """
    from ml_core.serve.model.bundle import verify_folder

    found = verify_folder(folder / BUNDLE_IN_BENTO_MODEL, model_hash or None)[1]
    if not tag.endswith(f"-{found[:8]}"):
        raise ArtefactError(tag, f"holds a model whose hash is {found[:12]}…, which is not the one in its tag")
    return found
