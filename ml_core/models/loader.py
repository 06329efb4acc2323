"""From the Bento store to a model that may answer: which tag, is it gated, is it whole, does it still answer right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import bentoml
import yaml
from bentoml.exceptions import BentoMLException, NotFound

from ml_core.errors import ArtefactError, NotGated, NotLoaded, SuretyError
from ml_core.models.promotion_record import (
    GateReport,
    PromotionRecord,
    gate_path,
    promotion_path,
    read_document,
)
from ml_core.settings import Settings

if TYPE_CHECKING:
    from ml_core.models.predictor import Predictor

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


@dataclass(frozen=True)
class LoadedModel:
    """A model that may answer.

    Attributes
    ----------
    tag, version : in the Bento store and in MLflow
    predictor : verified, and shown to reproduce its golden answers
    gate : the report that lets it answer
    promotion : how it became the champion; None for a gated model that was asked for by tag
    """

    tag: str
    version: str
    predictor: Predictor
    gate: GateReport
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
        record = self._promotion()
        if record is not None:
            return record.bento_tag
        if self._bento is not None:
            return _tag_in_bento(self._bento)
        raise NotLoaded(
            f"no version of {self._settings.model_name} has been promoted: "
            "run `make serve`, or `surety train`, `surety promote` and `surety import-model`"
        )

    def load(self, tag: str) -> LoadedModel:
        """The model under that tag, verified, gated and shown to give its golden answers.

        Raises
        ------
        NotLoaded
            It is not in the Bento store.
        NotGated
            Its hash has no passed gate, or is not the one that was promoted under this tag.
        ArtefactError
            Its folder cannot be trusted.
        """
        # Numpy and ONNX Runtime wait until here: BentoML's arbiter process imports this module only to learn the tag.
        from ml_core.models.bundle import read_bundle
        from ml_core.models.predictor import Predictor, check_golden

        folder, version = self._find(tag)
        promotion = self._promotion_of(tag, folder)
        bundle = read_bundle(folder / BUNDLE_IN_BENTO_MODEL, promotion.model_hash if promotion else None)
        gate = self._passed_gate(tag, bundle.model_hash, folder, promotion)
        predictor = Predictor(bundle)
        check_golden(predictor)
        return LoadedModel(tag, version, predictor, gate, promotion)

    def check_gated(self, tag: str) -> None:
        """Raise unless the model under that tag is whole and has a passed gate (no parser but the manifest's runs)."""
        from ml_core.models.bundle import verify_folder

        folder, _ = self._find(tag)
        promotion = self._promotion_of(tag, folder)
        _, model_hash, _ = verify_folder(folder / BUNDLE_IN_BENTO_MODEL, promotion.model_hash if promotion else None)
        self._passed_gate(tag, model_hash, folder, promotion)

    def _promotion(self) -> PromotionRecord | None:
        return read_document(promotion_path(self._settings.promotions, self._settings.model_name), PromotionRecord)

    def _promotion_of(self, tag: str, folder: Path) -> PromotionRecord | None:
        """The promotion record of that tag: of ``SURETY_HOME``, else the one that travelled with the model."""
        records = (self._promotion(), read_document(folder / PROMOTION_IN_BENTO_MODEL, PromotionRecord))
        return next((record for record in records if record is not None and record.bento_tag == tag), None)

    def _find(self, tag: str) -> tuple[Path, str]:
        try:
            model = bentoml.models.get(tag)
        except (NotFound, BentoMLException, ValueError) as error:
            raise NotLoaded(f"{tag} is not in the Bento store: run `surety import-model`") from error
        return Path(model.path), str(model.info.labels.get("mlflow_version", ""))

    def _passed_gate(self, tag: str, model_hash: str, folder: Path, promotion: PromotionRecord | None) -> GateReport:
        """The first gate report on this hash: of its promotion, of ``SURETY_HOME``, or beside the artefact."""
        if not tag.endswith(f"-{model_hash[:8]}"):
            raise NotGated(tag, f"its hash is {model_hash[:12]}…, which is not the one in its tag")
        reports = (
            promotion.gate if promotion is not None else None,
            read_document(gate_path(self._settings.gates, model_hash), GateReport),
            read_document(folder / GATE_IN_BENTO_MODEL, GateReport),
        )
        report = next((r for r in reports if r is not None and r.model_hash == model_hash), None)
        if report is None:
            raise NotGated(tag, f"its hash {model_hash[:12]}… has no gate report: run `surety validate`")
        if not report.passed:
            raise NotGated(tag, f"its gate said no: {', '.join(report.failed_rules)}")
        return report


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
