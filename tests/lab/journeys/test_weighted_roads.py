"""What `surety recalibrate --weighted` makes gives the same answer, bit for bit, on every road that a record can take."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.lab.journeys.recalibrate import recalibrate
from ml_core.lab.past_answers.batch_scoring import score_table
from ml_core.lab.past_answers.past_models import PastModels
from ml_core.lab.past_answers.replayer import Replayer
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.answering.requests import PredictRequest
from ml_core.serve.http.arrow_batches import answer_stream
from ml_core.serve.http.arrow_messages import StreamLimits
from ml_core.serve.log.log_places import place_of
from ml_core.serve.model.loader import LoadedModel, ModelLoader
from ml_core.serve.rollout import changes
from tests.lab.journeys.test_recalibrate import weighing
from tests.lab.past_answers.logged import answers_in
from tests.lab.training.test_weighting import older
from tests.lab.watching.ward import Ward, records_of
from tests.serve.answering.builders import until
from tests.toy_models import NAME

ROWS = 300

Answer = tuple[float, tuple[float, ...], tuple[int, ...]]
"""P(1), the p-values of both labels, and the set."""


def made(ward: Ward) -> LoadedModel:
    """The weighted model, live in the place of the champion that it was made of."""
    settings = ward.home.settings
    ward.answer(older(1_500, 61))
    found = recalibrate(weighing(), settings, lambda _: None, weighted=True, shadow=True)
    assert found.outcome == "passed"
    assert found.tag is not None
    ward.home.change(changes.full(found.tag))
    ward.look()
    return ModelLoader(settings).load(found.tag)


def enveloped(answers: Sequence[InferenceResponse]) -> list[Answer]:
    assert {(a.guarantee, a.lineage.slot) for a in answers} == {("weighted", "champion")}
    return [(a.probability or 0.0, tuple(a.p_values.values()), tuple(a.prediction_set)) for a in answers]


def tabled(table: pa.Table) -> list[Answer]:
    """Of a scored table or an Arrow reply."""
    assert table.schema.metadata[b"guarantee"] == b"weighted"
    rows = table.to_pylist()
    return [
        (r["probability"], (r["p_value_0"], r["p_value_1"]), tuple(k for k in (0, 1) if r[f"in_set_{k}"])) for r in rows
    ]


def one_by_one(ward: Ward, records: Sequence[Mapping[str, Any]]) -> list[Answer]:
    service = ward.workers[0].service
    return enveloped([asyncio.run(service.predict(PredictRequest(dict(record)))) for record in records])


def streamed(ward: Ward, records: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """One Arrow stream."""
    table, sink = pa.Table.from_pylist(list(records)), io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)

    async def here(work: Callable[[], Any]) -> Any:
        return work()

    limits, service = StreamLimits(len(records), 1 << 30), ward.workers[0].service
    reply = asyncio.run(answer_stream(service, sink.getvalue(), limits, here, on_error="row", level=None))
    return tabled(pa.ipc.open_stream(reply[1]).read_all())


def scored(records: Sequence[Mapping[str, Any]], model: LoadedModel, folder: Path) -> list[Answer]:
    """`surety score`."""
    pd.DataFrame(records).to_parquet(folder / "in.parquet")
    score_table(folder / "in.parquet", folder / "out.parquet", model)
    return tabled(pq.read_table(folder / "out.parquet"))


def by_pyfunc(ward: Ward, records: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The registered model, as MLflow loads it."""
    with ModelRegistry(ward.home.settings).session("load"):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@challenger")
    found = model.predict(pd.DataFrame(records)).to_dict("records")
    return [(row["probability"], tuple(row["p_values"].values()), tuple(row["prediction_set"])) for row in found]


def test_the_weighted_model_gives_the_same_bits_on_every_road(ward: Ward, tmp_path: Path) -> None:
    model, rows = made(ward), older(ROWS, 66)
    records, _ = records_of(rows)
    before = len(answers_in(ward.home.settings))

    alone = one_by_one(ward, records)

    assert enveloped(ward.answer(rows)) == alone
    assert streamed(ward, records) == alone
    assert scored(records, model, tmp_path) == alone
    assert by_pyfunc(ward, records) == alone
    until(lambda: ward.writers[0].counts.pending == 0)
    logged = answers_in(ward.home.settings)[before:]
    assert len(logged) == 3 * ROWS
    assert {answer.lineage["guarantee"] for answer in logged} == {"weighted"}
    replayed = list(Replayer(PastModels(ward.home.settings), place_of(ward.home.settings)).run(logged))
    assert {(one.state, one.max_difference) for one in replayed} == {("equal", 0.0)}

    # Else the roads would agree on the sets of the model that it was made of: the weight of a record counts.
    bundle = model.predictor.bundle
    plain = [bundle.calibration.row([1.0 - p, p], model.predictor.level).p_values for p, _, _ in alone]
    assert sum(a != b for a, (_, b, _) in zip(plain, alone, strict=True)) > 0.9 * ROWS
