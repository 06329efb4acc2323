"""What a model says of the rows of a block, as a table: the arithmetic that answers requests, on whole columns."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml_core.base.arrays import BoolArray
from ml_core.base.errors import DataError
from ml_core.features.columns import ColumnArrays
from ml_core.lab.batch.row_groups import Piece
from ml_core.lab.data.table_blocks import Block, HashedTable
from ml_core.serve.answering.requests import OnError
from ml_core.serve.features.table import EncodedTable, encode_table
from ml_core.serve.model.bundle import copy_verified, read_bundle
from ml_core.serve.model.groupings import GroupedCalibration
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.prediction_sets import Predictions
from ml_core.serve.model.predictor import Predictor, check_golden

__all__ = ["BlockScoring", "ModelAtHand", "ModelInFiles"]

_ROWS_NAMED = 5


class ScoringModel(Protocol):
    """A model, or what it can be made of where the work is done."""

    @property
    def loaded(self) -> LoadedModel: ...


@dataclass(frozen=True)
class ModelAtHand:
    """A model of this process."""

    loaded: LoadedModel


@dataclass(frozen=True)
class ModelInFiles:
    """A gated model as the files of its artefact, which travel to another process or machine.

    Attributes
    ----------
    tag, version, model_hash : as the loader gave them, who has seen the gate's report
    files : content of the artefact by name, the manifest too; each process verifies them, and the golden answers
    """

    tag: str
    version: str
    model_hash: str
    files: dict[str, bytes]

    @classmethod
    def of(cls, model: LoadedModel, folder: Path) -> ModelInFiles:
        """The model in its artefact's folder.

        Raises
        ------
        ArtefactError
            The folder does not hold that model.
        """
        with tempfile.TemporaryDirectory(prefix="surety-model-") as place:
            copy_verified(folder, Path(place, "copy"), model.model_hash)
            files = {path.name: path.read_bytes() for path in Path(place, "copy").iterdir()}
        return cls(model.tag, model.version, model.model_hash, files)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what has been loaded stays where it is."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, verified as a worker of the service verifies it; its gate was asked where it came from.

        Raises
        ------
        ArtefactError
            This process cannot run it as it was trained, e.g. has another feature module.
        """
        place = Path(tempfile.mkdtemp(prefix="surety-model-"))
        try:
            for name, content in self.files.items():
                (place / name).write_bytes(content)
            predictor = Predictor(read_bundle(place, self.model_hash))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        check_golden(predictor)
        return LoadedModel(self.tag, self.version, predictor, None)


@dataclass(frozen=True)
class BlockScoring:
    """Tables, and what is to be done with their rows.

    Attributes
    ----------
    tables : at least one
    names : of the tables, for the column ``file``; empty where there is one table and no such column
    model : that scores
    level : confidence level
    on_error : what becomes of bad rows
    block_rows : rows that are scored at a time
    told : hears how many rows have just been finished; None in another process
    """

    tables: tuple[HashedTable, ...]
    names: tuple[str, ...]
    model: ScoringModel
    level: Decimal
    on_error: OnError
    block_rows: int
    told: Callable[[int], None] | None = None

    @cached_property
    def facts(self) -> dict[str, str]:
        """Level, guarantee and lineage, by the names that they have in the service's Arrow replies."""
        model = self.model.loaded
        manifest = model.predictor.bundle.manifest
        return {
            "confidence_level": str(self.level),
            "guarantee": manifest.guarantee,
            "lineage.model_name": manifest.name,
            "lineage.model_version": model.version,
            "lineage.model_hash": model.model_hash,
            "lineage.feature_version": manifest.feature_version,
            "lineage.calibration_id": manifest.calibration_id,
            "lineage.input_hash": self.input_hash,
        }

    @property
    def input_hash(self) -> str:
        """The digest of one table; of several the sha256 (hex) of their names and digests."""
        if not self.names:
            return self.tables[0].digest
        lines = (f"{name}\0{table.digest}\n" for name, table in zip(self.names, self.tables, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def schema(self) -> pa.Schema:
        """Of every block and of the output."""
        predictor = self.model.loaded.predictor
        classes = predictor.classes
        label = pa.int64() if isinstance(classes[0], int) else pa.string()
        return pa.schema(
            [
                *([pa.field("file", pa.string())] if self.names else []),
                pa.field("row", pa.int64()),
                *self.tables[0].id_fields,
                pa.field("prediction", label),
                pa.field("probability", pa.float64()),
                pa.field("confidence", pa.float64()),
                *(pa.field(f"probability_{c}", pa.float64()) for c in classes),
                *(pa.field(f"p_value_{c}", pa.float64()) for c in classes),
                *(pa.field(f"in_set_{c}", pa.bool_()) for c in classes),
                *([] if predictor.bundle.grouped is None else [pa.field("group", pa.string())]),
                pa.field("error", pa.string()),
                pa.field("confidence_level", pa.float64()),
                pa.field("model_version", pa.string()),
                pa.field("model_hash", pa.string()),
            ],
            metadata=self.facts,
        )

    def scored(self, piece: Piece, first: int = 0) -> Iterator[pa.Table]:
        """The answers to a piece, block by block, from its block number ``first`` on.

        Raises
        ------
        DataError
            The table cannot be read, or rows are bad and are to be rejected.
        BadModelOutput
            The model gives numbers that are no probabilities.
        """
        for block in self.tables[piece.file].blocks(self.block_rows, first, piece):
            yield self._scored(piece.file, block)
            if self.told is not None:
                self.told(block.n_rows)

    def _scored(self, file: int, block: Block) -> pa.Table:
        table = self.tables[file]
        encoded = encode_table(table.columns, block.cells)
        if encoded.problems and self.on_error == "reject":
            raise DataError(str(table.path), _told(block, encoded))
        good, n = encoded.good, block.n_rows
        model = self.model.loaded
        predictor = model.predictor
        classes, grouped = predictor.classes, predictor.bundle.grouped
        columns = {name: values[good] for name, values in encoded.arrays.items()}
        found = predictor.predict(columns, self.level) if good.any() else Predictions.blank(0, len(classes))
        schema = self.schema
        values = [
            *([pa.repeat(self.names[file], n)] if self.names else []),
            pa.array(np.arange(block.first_row, block.first_row + n)),
            *block.ids.values(),
            _spread(found.labels(classes), good, schema.field("prediction").type),
            _spread(found.proba[:, 1], good) if len(classes) == 2 else pa.nulls(n, pa.float64()),
            _spread(found.confidence(), good),
            *(_spread(found.proba[:, k], good) for k in range(len(classes))),
            *(_spread(found.p_values[:, k], good) for k in range(len(classes))),
            *(_spread(found.sets[:, k], good) for k in range(len(classes))),
            *([] if grouped is None else [_spread(_names(grouped, columns, found), good, pa.string())]),
            pa.array(map(encoded.problem_text, range(n)), pa.string()),
            *(pa.repeat(fact, n) for fact in (float(self.level), model.version, model.model_hash)),
        ]
        return pa.Table.from_arrays(values, schema=schema)


def _names(grouped: GroupedCalibration, columns: ColumnArrays, found: Predictions) -> list[str]:
    """The group of each good row."""
    return [grouped.names[cell] for cell in grouped.cells(columns).tolist()] if len(found.proba) else []


def _spread(values: npt.NDArray[Any] | list[Any], good: BoolArray, kind: pa.DataType = None) -> pa.Array:
    """Values of the good rows in their places, null in the others."""
    if good.all():
        return pa.array(values, kind)
    places = np.cumsum(good) - 1
    return pa.array(values, kind).take(pa.array(places, mask=~good))


def _told(block: Block, encoded: EncodedTable) -> str:
    """Which rows are bad, by position and column; no value."""
    bad = sorted(encoded.problems)
    rows = [
        f"row {block.first_row + row} ({', '.join(fault.field for fault in encoded.problems[row])})"
        for row in bad[:_ROWS_NAMED]
    ]
    more = f" and {len(bad) - len(rows)} more" if len(bad) > len(rows) else ""
    checks = "; ".join(f"{column}: {check} ({n})" for (column, check), n in sorted(encoded.checks.items())[:10])
    seen = block.first_row + block.n_rows
    return (
        f"refused for {', '.join(rows)}{more} among its first {seen} rows, counted from 0: {checks}. "
        "Correct them, or give --on-error row"
    )
