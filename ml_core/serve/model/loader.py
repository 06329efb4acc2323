"""From the Bento store to a model that may answer: which tag, is it gated, is it whole, does it still answer right."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, NotFound

from ml_core.base.documents import read_document
from ml_core.base.errors import ArtefactError, NotGated, NotLoaded, SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.model.promotion_record import GateReport, PromotionRecord, gate_path, promotion_path

if TYPE_CHECKING:
    from ml_core.serve.model.bundle import Bundle
    from ml_core.serve.model.manifest import Manifest
    from ml_core.serve.model.predictor import Predictor
    from ml_core.serve.model.scorer import Scorer

__all__ = [
    "BUNDLE_IN_BENTO_MODEL",
    "GATE_IN_BENTO_MODEL",
    "PROMOTION_IN_BENTO_MODEL",
    "LoadedModel",
    "ModelLoader",
    "ServedModel",
]

BUNDLE_IN_BENTO_MODEL = "mlflow_model/artifacts/bundle"
GATE_IN_BENTO_MODEL = "gate.json"
PROMOTION_IN_BENTO_MODEL = "promotion.json"
"""Gate report and promotion record travel beside the artefact: a bento needs no other place to vouch for its model."""
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
    """

    tag: str
    version: str
    predictor: Predictor
    gate: GateReport | None
    promotion: PromotionRecord | None = None

    @property
    def model_hash(self) -> str:
        """sha256 (hex) of its manifest."""
        return self.predictor.bundle.model_hash


class ModelLoader:
    """Finds and loads the model to serve.

    Parameters
    ----------
    settings : where promotion records and gate reports lie, and ``SURETY_MODEL``
    bento : the unpacked bento this code runs in, or None when it runs from a checkout
    """

    def __init__(self, settings: Settings, bento: Path | None = None) -> None:
        self._settings = settings
        self._bento = bento

    def served_tag(self) -> str:
        """Tag of the model to serve: ``SURETY_MODEL``, else the promoted one, else the one the bento was built with.

        Raises
        ------
        NotLoaded
            None of the three names a model.
        """
        if self._settings.model:
            return self._settings.model
        promoted = self.promoted()
        if promoted is not None:
            return promoted[0]
        raise NotLoaded(
            f"no version of {self._settings.model_name} has been promoted: "
            "run `make serve`, or `surety train`, `surety promote` and `surety import-model`"
        )

    def promoted(self) -> tuple[str, str] | None:
        """Tag of the promoted model, and when it was promoted ("" where that is not known); None where none is.

        The record in ``SURETY_HOME`` comes before the model that a bento was built with.
        """
        record = self._promotion()
        if record is None and self._bento is not None:
            tag = _tag_in_bento(self._bento)
            with suppress(NotLoaded):  # a built bento names its model before anybody has brought it in
                record = self._promotion_of(tag, self._find(tag)[0])
            return tag, record.promoted_at if record is not None else ""
        return None if record is None else (record.bento_tag, record.promoted_at)

    def bundled(self) -> tuple[str, Path] | None:
        """Tag and folder of the model that a bento was built with; None outside of one.

        Raises
        ------
        NotLoaded, ArtefactError
            The bento's model is not where it should be, or ``bento.yaml`` names none.
        """
        if self._bento is None:
            return None
        tag = _tag_in_bento(self._bento)
        return tag, self._find(tag)[0]

    def load(self, tag: str, *, gated: bool = True, scorer_of: Callable[[Bundle], Scorer] | None = None) -> LoadedModel:
        """The model under that tag, verified, gated and shown to give its golden answers.

        Parameters
        ----------
        gated : False for a model that only runs in shadow, whose answers nobody sees
        scorer_of : gives the scorer where it does not run in this process

        Raises
        ------
        NotLoaded
            It is not in the Bento store.
        NotGated
            Its hash has no passed gate, or is not the one that was promoted under this tag.
        ArtefactError
            Its folder cannot be trusted.
        ModelUnavailable
            A scorer elsewhere cannot be reached.
        """
        from ml_core.serve.model.predictor import check_golden

        model = self.verified(tag, gated=gated, scorer_of=scorer_of)
        check_golden(model.predictor)
        return model

    def verified(
        self, tag: str, *, gated: bool = True, scorer_of: Callable[[Bundle], Scorer] | None = None
    ) -> LoadedModel:
        """The model under that tag, verified and gated; it may not answer before its golden records reproduce.

        Raises
        ------
        NotLoaded, NotGated, ArtefactError
            As :meth:`load`.
        """
        # Numpy and ONNX Runtime wait until here: BentoML's arbiter process imports this module only to learn the tag.
        from ml_core.serve.model.bundle import read_bundle
        from ml_core.serve.model.predictor import Predictor

        folder, version = self._find(tag)
        promotion = self._promotion_of(tag, folder)
        gate: GateReport | None = None

        def admit(model_hash: str) -> None:
            nonlocal gate
            gate = self._gate(tag, model_hash, folder, promotion)
            if gated:
                _check_passed(tag, model_hash, gate)

        bundle = read_bundle(folder / BUNDLE_IN_BENTO_MODEL, promotion.model_hash if promotion else None, admit)
        predictor = Predictor(bundle, None if scorer_of is None else scorer_of(bundle))
        return LoadedModel(tag, version, predictor, gate, promotion)

    def facts(self, tag: str) -> tuple[Manifest, str]:
        """Manifest and model hash of the model under that tag; every file is verified, none is parsed.

        Raises
        ------
        NotLoaded, ArtefactError
            As :meth:`load`.
        """
        manifest, model_hash, _ = self.files(tag)
        return manifest, model_hash

    def files(self, tag: str) -> tuple[Manifest, str, dict[str, bytes]]:
        """As :meth:`facts`, with the verified content of every file by name.

        Raises
        ------
        NotLoaded, ArtefactError
            As :meth:`load`.
        """
        from ml_core.serve.model.bundle import verify_folder

        folder, _ = self._find(tag)
        promotion = self._promotion_of(tag, folder)
        return verify_folder(folder / BUNDLE_IN_BENTO_MODEL, promotion.model_hash if promotion else None)

    def tags(self) -> list[str]:
        """Tags of the configured model that can be loaded, in the Bento store or in ``SURETY_HOME``."""
        name = self._settings.model_name.lower()
        # By folder: BentoML's own list fails as a whole where one model of the name is half imported.
        folders = (Path(BentoMLContainer.model_store.get()._path) / name, self._settings.models / name)  # noqa: SLF001
        tags = {f"{name}:{path.name}" for folder in folders for path in folder.glob("*") if path.is_dir()}
        return sorted(tag for tag in tags if _TAG.fullmatch(tag))

    def check_gated(self, tag: str) -> None:
        """Raise unless the model under that tag is whole and has a passed gate (no parser but the manifest's runs)."""
        _, model_hash = self.facts(tag)
        folder, _ = self._find(tag)
        _check_passed(tag, model_hash, self._gate(tag, model_hash, folder, self._promotion_of(tag, folder)))

    def _promotion(self) -> PromotionRecord | None:
        return read_document(promotion_path(self._settings.promotions, self._settings.model_name), PromotionRecord)

    def _promotion_of(self, tag: str, folder: Path) -> PromotionRecord | None:
        """The promotion record of that tag: of ``SURETY_HOME``, else the one that travelled with the model."""
        records = (self._promotion(), read_document(folder / PROMOTION_IN_BENTO_MODEL, PromotionRecord))
        return next((record for record in records if record is not None and record.bento_tag == tag), None)

    def _find(self, tag: str) -> tuple[Path, str]:
        """Folder and registered version of a tag: in the Bento store, else under ``SURETY_HOME/models``."""
        try:
            model = bentoml.models.get(tag)
        except (NotFound, BentoMLException, ValueError) as error:
            name, _, version = tag.partition(":")
            folder = self._settings.models / name / version
            if not _TAG.fullmatch(tag) or not folder.is_dir():
                raise NotLoaded(f"{tag} is not in the Bento store: run `surety import-model`") from error
            return folder, version[1:].rpartition("-")[0]
        return Path(model.path), str(model.info.labels.get("mlflow_version", ""))

    def _gate(self, tag: str, model_hash: str, folder: Path, promotion: PromotionRecord | None) -> GateReport | None:
        """The first gate report on this hash: of its promotion, of ``SURETY_HOME``, or beside the artefact."""
        if not tag.endswith(f"-{model_hash[:8]}"):
            raise NotGated(tag, f"its hash is {model_hash[:12]}…, which is not the one in its tag")
        reports = (
            promotion.gate if promotion is not None else None,
            read_document(gate_path(self._settings.gates, model_hash), GateReport),
            read_document(folder / GATE_IN_BENTO_MODEL, GateReport),
        )
        return next((r for r in reports if r is not None and r.model_hash == model_hash), None)


def _check_passed(tag: str, model_hash: str, report: GateReport | None) -> None:
    if report is None:
        raise NotGated(tag, f"its hash {model_hash[:12]}… has no gate report: run `surety validate`")
    if not report.passed:
        raise NotGated(tag, f"its gate said no: {', '.join(report.failed_rules)}")


def _tag_in_bento(bento: Path) -> str:
    """The one model tag that ``bento.yaml`` names."""
    try:
        described = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
        services = described.get("services") or []
        models = [*(described.get("models") or []), *(m for s in services for m in s.get("models") or [])]
        tags = {str(m["tag"]) for m in models}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ArtefactError("bento.yaml", "names no model") from error
    if len(tags) != 1:
        raise ArtefactError("bento.yaml", f"names {len(tags)} models, not one")
    return tags.pop()


@attrs.frozen
class ServedModel(bentoml.models.BentoModel):  # type: ignore[misc]  # without type information it is Any
    """The served model as BentoML sees it: recorded in a bento only when gated, never a reason not to start."""

    loader: ModelLoader = attrs.field(eq=False)
    problem: str = ""

    @classmethod
    def of(cls, loader: ModelLoader) -> ServedModel:
        """The model to serve; where there is none, a place-holder that says so when a bento is built."""
        try:
            return cls(tag=loader.served_tag(), loader=loader)  # type: ignore[call-arg]  # inherited field
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
        self.loader.check_gated(str(self.tag))
        return super().to_info(alias)

    def resolve(self, base_path: Any = None, global_model_store: Any = None) -> Any:  # noqa: ARG002 - BentoML's signature
        """The stored model or None: a service without its model starts, is not ready, and says why."""
        return self.stored
