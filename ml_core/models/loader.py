"""From the Bento store to a model that may answer: which tag, is it gated, is it whole, does it still answer right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import bentoml
import yaml
from bentoml.exceptions import BentoMLException, NotFound

from ml_core.errors import ArtefactError, NotGated, NotLoaded, SuretyError
from ml_core.models.bundle import read_bundle, verify_folder
from ml_core.models.predictor import Predictor, check_golden
from ml_core.models.promotion_record import (
    GateReport,
    PromotionRecord,
    gate_path,
    promotion_path,
    read_document,
)
from ml_core.settings import Settings

BUNDLE_IN_BENTO_MODEL = "mlflow_model/artifacts/bundle"
GATE_IN_BENTO_MODEL = "gate.json"
"""The gate report travels beside the artefact, so that a bento needs no other place to vouch for its model."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that may answer."""

    tag: str
    version: str
    predictor: Predictor
    gate: GateReport

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
        folder, version = self._find(tag)
        bundle = read_bundle(folder / BUNDLE_IN_BENTO_MODEL, self._expected_hash(tag))
        gate = self._passed_gate(tag, bundle.model_hash, folder)
        predictor = Predictor(bundle)
        check_golden(predictor)
        return LoadedModel(tag=tag, version=version, predictor=predictor, gate=gate)

    def check_gated(self, tag: str) -> None:
        """Raise unless the model under that tag is whole and has a passed gate (no parser but the manifest's runs)."""
        folder, _ = self._find(tag)
        _, model_hash, _ = verify_folder(folder / BUNDLE_IN_BENTO_MODEL, self._expected_hash(tag))
        self._passed_gate(tag, model_hash, folder)

    def _promotion(self) -> PromotionRecord | None:
        return read_document(promotion_path(self._settings.promotions, self._settings.model_name), PromotionRecord)

    def _expected_hash(self, tag: str) -> str | None:
        record = self._promotion()
        return record.model_hash if record is not None and record.bento_tag == tag else None

    def _find(self, tag: str) -> tuple[Path, str]:
        try:
            model = bentoml.models.get(tag)
        except (NotFound, BentoMLException, ValueError) as error:
            raise NotLoaded(f"{tag} is not in the Bento store: run `surety import-model`") from error
        return Path(model.path), str(model.info.labels.get("mlflow_version", ""))

    def _passed_gate(self, tag: str, model_hash: str, folder: Path) -> GateReport:
        """The first gate report on this hash: of the promotion record, of ``SURETY_HOME``, or beside the artefact."""
        record = self._promotion()
        reports = (
            record.gate if record is not None and record.model_hash == model_hash else None,
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
class ServedModel(bentoml.models.BentoModel):  # type: ignore[misc]  # bentoml has no type information
    """The served model as BentoML sees it: recorded in a bento only when gated, never a reason not to start."""

    loader: ModelLoader = attrs.field(eq=False)
    problem: str = ""

    @classmethod
    def of(cls, loader: ModelLoader) -> ServedModel:
        """The model to serve; where there is none, a place-holder that says so when a bento is built."""
        try:
            return cls(loader.served_tag(), loader)
        except SuretyError as error:
            return cls("none:none", loader, str(error))

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
