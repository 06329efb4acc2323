"""From the Bento store to a model that may answer: which tag, is it gated, is it whole, does it still answer right."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer

from ml_core.base.errors import ArtefactError, ModelUnavailable, NotGated, NotLoaded, SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.model.model_fetching import Fetches
from ml_core.serve.model.promotion_record import GateReport, PromotionRecord, plain_promotion
from ml_core.serve.model.vouching import Vouchers
from ml_core.serve.trust.keys import trusted_keys

if TYPE_CHECKING:
    from ml_core.base.arrays import FeatureMatrix, Probabilities
    from ml_core.serve.model.bundle import Bundle
    from ml_core.serve.model.manifest import Manifest
    from ml_core.serve.model.predictor import Predictor
    from ml_core.serve.model.scorer import Scorer

__all__ = [
    "BUNDLE_IN_BENTO_MODEL",
    "LoadedModel",
    "ModelLoader",
    "Promoted",
    "ServedModel",
]

BUNDLE_IN_BENTO_MODEL = "mlflow_model/artifacts/bundle"
_TAG = re.compile(r"[a-z0-9][a-z0-9_.-]*:v[^:/\\]+-[0-9a-f]{8}")


@dataclass(frozen=True)
class LoadedModel:
    """A model that may answer.

    Attributes
    ----------
    tag, version : in the Bento store and in MLflow
    predictor : verified, and shown to reproduce its golden answers
    gate : the report that lets it answer; None for one that may only run in shadow
    promotion : how it became the champion; None for a gated model that was asked for by tag
    is_whole : False where only its scorecard and prior can answer, see :meth:`ModelLoader.baseline`
    """

    tag: str
    version: str
    predictor: Predictor
    gate: GateReport | None
    promotion: PromotionRecord | None = None
    is_whole: bool = True

    @property
    def model_hash(self) -> str:
        """sha256 (hex) of its manifest."""
        return self.predictor.bundle.model_hash


class Promoted(NamedTuple):
    """The model that was promoted: its tag, when that was ("" where not known), and its hash in full ("" likewise)."""

    tag: str
    promoted_at: str
    model_hash: str


@dataclass(frozen=True)
class _InBento:
    """What ``bento.yaml`` says: the model it was built with, its full hash, and the keys that vouch for models."""

    tag: str
    model_hash: str = ""
    trusted_keys: tuple[str, ...] = ()


class ModelLoader:
    """Finds and loads the model to serve.

    Parameters
    ----------
    settings : where promotion records and gate reports lie, and ``SURETY_MODEL``
    bento : the unpacked bento this code runs in, or None when it runs from a checkout
    patience_s : longest wait for a model that must be fetched, as :class:`Fetches` has it; None: as long as it takes
    """

    def __init__(self, settings: Settings, bento: Path | None = None, patience_s: float | None = None) -> None:
        self._settings = settings
        self._bento = bento
        self._fetches = Fetches(patience_s)

    def served_tag(self) -> str:
        """Tag of the model to serve: ``SURETY_MODEL``, else the promoted one, else the one the bento was built with.

        Raises
        ------
        NotLoaded
            None of the three names a model.
        ArtefactError
            The promotion record is damaged, or signed by no trusted key.
        """
        return self._served_tag(self.promoted)

    def named_tag(self) -> str:
        """As :meth:`served_tag`, for a process that only wants the name: whoever loads the model verifies."""
        return self._served_tag(self.named)

    def _served_tag(self, promoted: Callable[[], Promoted | None]) -> str:
        if self._settings.model:
            return self._settings.model
        found = promoted()
        if found is not None:
            return found.tag
        raise NotLoaded(
            f"no version of {self._settings.model_name} has been promoted: "
            "run `make serve`, or `surety train`, `surety promote` and `surety import-model`"
        )

    def promoted(self) -> Promoted | None:
        """The promoted model; None where there is none.

        The record in ``SURETY_HOME`` comes before the model that a bento was built with.

        Raises
        ------
        ArtefactError
            The record is damaged, or signed by no trusted key.
        """
        record = self._vouchers.promotion()
        if record is None and self._in_bento is not None:
            tag = self._in_bento.tag
            with suppress(NotLoaded):  # a built bento names its model before anybody has brought it in
                record = self._promotion_of(tag, self._find(tag)[0])
            return Promoted(tag, record.promoted_at if record is not None else "", self._in_bento.model_hash)
        return None if record is None else Promoted(record.bento_tag, record.promoted_at, record.model_hash)

    def named(self) -> Promoted | None:
        """As :meth:`promoted`, without verifying a signature, which takes an import of 20 ms; without a hash."""
        record = plain_promotion(self._settings, self._settings.model_name)
        if record is not None:
            return Promoted(record.bento_tag, record.promoted_at, "")
        return None if self._in_bento is None else Promoted(self._in_bento.tag, "", "")

    def bundled(self) -> tuple[str, Path] | None:
        """Tag and folder of the model that a bento was built with; None outside of one.

        Raises
        ------
        NotLoaded, ArtefactError
            The bento's model is not where it should be, or ``bento.yaml`` names none.
        """
        if self._in_bento is None:
            return None
        return self._in_bento.tag, self._find(self._in_bento.tag)[0]

    def load(self, tag: str, model_hash: str = "", *, gated: bool = True, despite_no: bool = False) -> LoadedModel:
        """The model under that tag, verified, gated and shown to give its golden answers.

        Raises
        ------
        NotLoaded, NotGated, ArtefactError
            As :meth:`verified`.
        """
        from ml_core.serve.model.predictor import check_golden

        model = self.verified(tag, model_hash, gated=gated, despite_no=despite_no)
        check_golden(model.predictor)
        return model

    def verified(
        self,
        tag: str,
        model_hash: str = "",
        *,
        gated: bool = True,
        despite_no: bool = False,
        scorer_of: Callable[[Bundle], Scorer] | None = None,
    ) -> LoadedModel:
        """The model under that tag, verified and gated; it may not answer before its golden records reproduce.

        Parameters
        ----------
        model_hash : that it must have, in full; "" takes what the promotion, bento or signed verdict of the tag says
        gated : False for a model that only runs in shadow, whose answers nobody sees
        despite_no : an operator wants it although its newest verdict is no; it must have been judged all the same
        scorer_of : gives the scorer where it does not run in this process

        Raises
        ------
        NotLoaded
            It is not in the Bento store.
        NotGated
            Its hash has no passed gate that a trusted key has signed, or is not the one of its tag.
        ArtefactError
            Its folder cannot be trusted, or holds another model than that.
        """
        # Numpy and ONNX Runtime wait until here: BentoML's arbiter process imports this module only to learn the tag.
        from ml_core.serve.model.bundle import read_bundle
        from ml_core.serve.model.predictor import Predictor

        version, bundle, gate, promotion = self._read(tag, model_hash, read_bundle, gated=gated, despite_no=despite_no)
        predictor = Predictor(bundle, None if scorer_of is None else scorer_of(bundle))
        return LoadedModel(tag, version, predictor, gate, promotion)

    def baseline(self, tag: str, model_hash: str = "") -> LoadedModel:
        """What can answer of a model that cannot be loaded: its scorecard and prior, verified; its scorer never does.

        Raises
        ------
        NotLoaded, NotGated, ArtefactError
            As :meth:`verified`. A model whose newest verdict is no is given, for its prior.
        """
        from ml_core.serve.model.bundle import read_baseline
        from ml_core.serve.model.predictor import Predictor

        version, bundle, gate, promotion = self._read(tag, model_hash, read_baseline, gated=True, despite_no=True)
        return LoadedModel(tag, version, Predictor(bundle, _NoScorer()), gate, promotion, is_whole=False)

    def _read(
        self,
        tag: str,
        model_hash: str,
        read: Callable[[Path, str | None, Callable[[str], None]], Bundle],
        *,
        gated: bool,
        despite_no: bool,
    ) -> tuple[str, Bundle, GateReport | None, PromotionRecord | None]:
        """Version, bundle, newest verdict and promotion of the model under that tag."""
        folder, version = self._find(tag, model_hash)
        promotion = self._promotion_of(tag, folder)
        expected = self._expected(tag, promotion, model_hash)
        gate: GateReport | None = None

        def admit(found: str) -> None:
            nonlocal gate
            gate = self._vouchers.gate(tag, found, folder, is_pinned=expected is not None)
            if gated:
                _check_passed(tag, found, gate, despite_no=despite_no)

        return version, read(folder / BUNDLE_IN_BENTO_MODEL, expected, admit), gate, promotion

    def facts(self, tag: str, model_hash: str = "") -> tuple[Manifest, str]:
        """Manifest and model hash of the model under that tag; every file is verified, none is parsed.

        Raises
        ------
        NotLoaded, ArtefactError
            As :meth:`verified`.
        """
        manifest, found, _ = self.files(tag, model_hash)
        return manifest, found

    def files(self, tag: str, model_hash: str = "") -> tuple[Manifest, str, dict[str, bytes]]:
        """As :meth:`facts`, with the verified content of every file by name.

        Raises
        ------
        NotLoaded, ArtefactError
            As :meth:`verified`.
        """
        from ml_core.serve.model.bundle import verify_folder

        folder, _ = self._find(tag, model_hash)
        expected = self._expected(tag, self._promotion_of(tag, folder), model_hash)
        manifest, found, content = verify_folder(folder / BUNDLE_IN_BENTO_MODEL, expected)
        if not tag.endswith(f"-{found[:8]}"):
            raise NotGated(tag, f"its hash is {found[:12]}…, which is not the one in its tag")
        return manifest, found, content

    def artefact(self, tag: str) -> Path:
        """Folder of the artefact under that tag; nothing of it is verified.

        Raises
        ------
        NotLoaded
            It is not stored.
        """
        return self._find(tag)[0] / BUNDLE_IN_BENTO_MODEL

    def tags(self) -> list[str]:
        """Tags of the configured model that can be loaded, from the Bento store, the home or its objects."""
        name = self._settings.model_name.lower()
        objects = objects_of(self._settings)
        far = () if objects is None else objects.names(f"tags/{name}")
        shared = (f"{name}:{each.rpartition('/')[2]}" for each in far)
        return sorted({*(tag for tag, _ in self.folders(name)), *(tag for tag in shared if _TAG.fullmatch(tag))})

    def folders(self, name: str = "*") -> list[tuple[str, Path]]:
        """Tag and folder of what is stored, in the Bento store and in ``SURETY_HOME``; nothing of it is verified.

        Parameters
        ----------
        name : of a model in lower case; all of them unless it is given
        """
        # By folder: BentoML's own list fails as a whole where one model of the name is half imported.
        stores = (Path(BentoMLContainer.model_store.get()._path), self._settings.models)  # noqa: SLF001
        found = [path for store in stores for path in sorted(store.glob(f"{name}/*")) if path.is_dir()]
        tagged = [(f"{path.parent.name}:{path.name}", path) for path in found]
        return [(tag, path) for tag, path in tagged if _TAG.fullmatch(tag)]

    def check_gated(self, tag: str, model_hash: str = "", *, despite_no: bool = False) -> str:
        """The full hash of the model under that tag, which is whole and has a passed gate.

        No parser but the manifest's runs.

        Raises
        ------
        NotLoaded, NotGated, ArtefactError
            As :meth:`verified`.
        """
        folder, _ = self._find(tag, model_hash)
        expected = self._expected(tag, self._promotion_of(tag, folder), model_hash)
        _, found = self.facts(tag, model_hash)
        gate = self._vouchers.gate(tag, found, folder, is_pinned=expected is not None)
        _check_passed(tag, found, gate, despite_no=despite_no)
        return found

    def verdict(self, tag: str, model_hash: str) -> GateReport | None:
        """The newest verdict on that hash under that tag which a trusted key has signed; None where there is none.

        Raises
        ------
        NotGated, ArtefactError
            As :meth:`verified`.
        """
        folder: Path | None = None
        with suppress(NotLoaded):
            folder, _ = self._find(tag)
        return self._vouchers.gate(tag, model_hash, folder, is_pinned=True)

    def image_facts(self, tag: str) -> dict[str, Any]:
        """What a bento built around that model records: its full hash, and the keys that are trusted here.

        Raises
        ------
        NotLoaded, NotGated, ArtefactError
            A bento is not built around a model that may not answer.
        """
        keys = sorted({key.key for key in trusted_keys(self._settings, self._image_keys)})
        return {"model_hash": self.check_gated(tag), "trusted_keys": keys}

    def share(self, tag: str) -> None:
        """Bring the model under that tag to the objects of the home, where it has some: other machines need it.

        Raises
        ------
        NotLoaded, ArtefactError
            As :meth:`verified`.
        HomeUnreachable, OSError
            It cannot be stored there now.
        """
        objects = objects_of(self._settings)
        if objects is not None:
            from ml_core.serve.model.model_objects import upload_model

            upload_model(objects, tag, self._find(tag)[0])

    @cached_property
    def _in_bento(self) -> _InBento | None:
        return None if self._bento is None else _read_bento(self._bento)

    @property
    def _image_keys(self) -> tuple[str, ...]:
        return () if self._in_bento is None else self._in_bento.trusted_keys

    @cached_property
    def _vouchers(self) -> Vouchers:
        return Vouchers(self._settings, self._image_keys)

    def _promotion_of(self, tag: str, folder: Path) -> PromotionRecord | None:
        """The promotion record of that tag: of ``SURETY_HOME``, else the one that travelled with the model."""
        record = self._vouchers.promotion()
        if record is None or record.bento_tag != tag:
            record = self._vouchers.promotion_beside(folder)
        return record if record is not None and record.bento_tag == tag else None

    def _expected(self, tag: str, promotion: PromotionRecord | None, asked: str) -> str | None:
        """The full hash that the model of a tag must have; None where only a signed verdict can tell."""
        if asked:
            return asked
        if promotion is not None:
            return promotion.model_hash
        return (self._in_bento.model_hash or None) if self._in_bento is not None and self._in_bento.tag == tag else None

    def _find(self, tag: str, model_hash: str = "") -> tuple[Path, str]:
        """Folder and registered version of a tag: of the Bento store, ``SURETY_HOME/models``, or the home's objects.

        Parameters
        ----------
        model_hash : in full, of what is fetched from the objects of the home; "" takes what they say of the tag
        """
        name, _, rest = tag.partition(":")
        version = rest[1:].rpartition("-")[0]
        try:
            return Path(bentoml.models.get(tag).path), version
        except Exception as error:
            folder: Path | None = self._settings.models / name / rest
            if folder is not None and not folder.is_dir():
                folder = self._fetched(tag, model_hash) if _TAG.fullmatch(tag) else None
            if folder is None or not _TAG.fullmatch(tag):
                raise NotLoaded(f"{tag} is not in the Bento store: run `surety import-model`") from error
            return folder, version

    def _fetched(self, tag: str, model_hash: str) -> Path | None:
        """Folder of a model that was brought here from the objects of the home; None where it is not among them."""
        objects = objects_of(self._settings)
        if objects is None:
            return None
        from ml_core.serve.model.model_objects import fetch_model

        record = self._vouchers.promotion() if not model_hash else None
        known = record.model_hash if record is not None and record.bento_tag == tag else model_hash
        return self._fetches.folder((tag, known), lambda: fetch_model(objects, tag, known, self._settings))


class _NoScorer:
    """In place of a scorer that could not be loaded."""

    def proba(self, features: FeatureMatrix) -> Probabilities:
        raise ModelUnavailable(f"the model is not loaded; {len(features)} row(s) were not scored")


def _check_passed(tag: str, model_hash: str, report: GateReport | None, *, despite_no: bool = False) -> None:
    if report is None:
        raise NotGated(
            tag,
            f"its hash {model_hash[:12]}… has no gate report signed by a key that is trusted here: "
            "run `surety validate`",
        )
    if not report.passed and not despite_no:
        raise NotGated(tag, f"its gate said no: {', '.join(report.failed_rules)}")


def _read_bento(bento: Path) -> _InBento:
    """What ``bento.yaml`` says of the one model it names."""
    try:
        described = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
        services = described.get("services") or []
        models = [*(described.get("models") or []), *(m for s in services for m in s.get("models") or [])]
        tags = {str(m["tag"]) for m in models}
        facts: dict[str, Any] = next((m["metadata"] for m in models if m.get("metadata")), {})
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ArtefactError("bento.yaml", "names no model") from error
    if len(tags) != 1:
        raise ArtefactError("bento.yaml", f"names {len(tags)} models, not one")
    return _InBento(tags.pop(), str(facts.get("model_hash", "")), tuple(map(str, facts.get("trusted_keys", ()))))


@attrs.frozen
class ServedModel(bentoml.models.BentoModel):  # type: ignore[misc]  # without type information it is Any
    """The served model as BentoML sees it: recorded in a bento only when gated, never a reason not to start."""

    loader: ModelLoader = attrs.field(eq=False)
    problem: str = ""

    @classmethod
    def of(cls, loader: ModelLoader) -> ServedModel:
        """The model to serve; where there is none, a place-holder that says so when a bento is built."""
        try:
            return cls(tag=loader.named_tag(), loader=loader)  # type: ignore[call-arg]  # inherited field
        except SuretyError as error:
            return cls(tag="none:none", loader=loader, problem=str(error))  # type: ignore[call-arg]  # inherited field

    def to_info(self, alias: str | None = None) -> Any:
        """What a bento records; called when one is built.

        Raises
        ------
        NotGated, NotLoaded, ArtefactError
            A bento is not built around a model that may not answer.
        """
        if self.problem:
            raise NotLoaded(self.problem)
        facts = self.loader.image_facts(str(self.tag))
        return attrs.evolve(super().to_info(alias), metadata=facts)

    def resolve(self, base_path: Any = None, global_model_store: Any = None) -> Any:  # noqa: ARG002 - BentoML's signature
        """The stored model or None: a service without its model starts, is not ready, and says why."""
        return self.stored
