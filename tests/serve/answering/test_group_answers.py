"""Answers of a model with a promise for each group of patients: one cell, one calibration, on every road and in the log."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.base.errors import InvalidRecord
from ml_core.base.settings import Settings
from ml_core.lab.past_answers.batch_scoring import score_table
from ml_core.lab.past_answers.past_models import PastModel
from ml_core.lab.past_answers.replayer import Replayer
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.log.database import erase_subjects, open_for_change
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_places import place_of
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.lab.past_answers.logged import answers_in, logging_to
from tests.serve.answering.builders import OutputRunner, ask, ask_all, live_model, live_of, numbers, opened, toy_records
from tests.toy_models import grouped_toy, loaded_grouped, loaded_toy, toy_record

SEXES = ("female", "male", None)


def records(n: int = 30) -> list[dict[str, Any]]:
    """Records of every sex; every third says none, and half of those do not have the field."""
    found = []
    for i, record in enumerate(toy_records(n)):
        sex = SEXES[i % 3]
        found.append(record if sex is None and i % 2 else {**record, "sex": sex})
    return found


def cell_of(record: dict[str, Any]) -> str:
    return f"sex={record.get('sex') or 'unknown'}"


def calibration_of(cell: str, *, of_scorecard: bool = False) -> ConformalCalibration:
    bundle = grouped_toy().bundle
    grouped = bundle.grouped_scorecard if of_scorecard else bundle.grouped
    assert grouped is not None
    return grouped.calibrations[grouped.names.index(cell)]


class Models:
    """Finds the toy model for a replay."""

    def find(self, _lineage: Any) -> PastModel:
        return PastModel.of(loaded_grouped().predictor, "here")


def test_an_answer_names_its_group_and_what_is_promised_there() -> None:
    live = live_of(live_model(model=loaded_grouped()))
    for record in records(6):
        answer = ask(live, record)
        known = record.get("sex") is not None
        assert answer.group == cell_of(record)
        assert answer.guarantee == ("class_and_group" if known else "class_conditional")
        assert answer.lineage.calibration_id == calibration_of(cell_of(record)).calibration_id
    ids = {calibration_of(f"sex={name}").calibration_id for name in ("female", "male", "unknown")}
    assert len(ids) == 3


def test_an_answer_of_a_model_without_groups_names_none() -> None:
    answer = ask(live_of(), toy_record())
    assert (answer.group, answer.guarantee) == (None, "class_conditional")
    with pytest.raises(InvalidRecord):
        ask(live_of(), toy_record(sex="male"))


def test_a_level_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRecord) as refused:
        ask(live_of(live_model(model=loaded_grouped())), toy_record(sex="m"))
    assert [f.field for f in refused.value.fields] == ["sex"]


def test_the_column_of_a_group_changes_neither_probability_nor_input_hash() -> None:
    live = live_of(live_model(model=loaded_grouped()))
    female, male = (ask(live, toy_record(sex=sex)) for sex in ("female", "male"))
    assert female.probability == male.probability
    assert female.lineage.input_hash == male.lineage.input_hash
    assert female.p_values != male.p_values


def test_one_by_one_and_in_a_batch_and_offline_answers_are_the_same_bits(tmp_path: Path) -> None:
    live, asked = live_of(live_model(model=loaded_grouped())), records()
    alone = [ask(live, record) for record in asked]
    batch = ask_all(live, asked).predictions
    assert [(numbers(a), a.group, a.guarantee, a.lineage.calibration_id) for a in alone] == [
        (numbers(b), b.group, b.guarantee, b.lineage.calibration_id)  # type: ignore[union-attr]
        for b in batch
    ]
    frame = pd.DataFrame(asked)
    frame.to_parquet(tmp_path / "in.parquet")
    score_table(tmp_path / "in.parquet", tmp_path / "out.parquet", loaded_grouped())
    scored = pq.read_table(tmp_path / "out.parquet")
    assert scored.column("group").to_pylist() == [a.group for a in alone]
    for k in (0, 1):
        assert scored.column(f"p_value_{k}").to_pylist() == [a.p_values[str(k)] for a in alone]
        assert scored.column(f"in_set_{k}").to_pylist() == [k in a.prediction_set for a in alone]
    assert scored.schema.metadata[b"guarantee"] == b"class_and_group"


def test_the_pyfunc_answers_by_group_like_the_service() -> None:
    from ml_core.lab.registry.mlflow_pyfunc import SuretyModel

    context = SimpleNamespace(artifacts={"bundle": str(grouped_toy().folder)})
    model, asked = SuretyModel(), records()
    model.load_context(context)
    found = model.predict(context, pd.DataFrame(asked))
    alone = [ask(live_of(live_model(model=loaded_grouped())), record) for record in asked]
    assert found["group"].tolist() == [a.group for a in alone]
    assert found["p_values"].tolist() == [dict(a.p_values) for a in alone]
    assert found["prediction_set"].tolist() == [a.prediction_set for a in alone]


@pytest.mark.parametrize("road", ["one", "batch", "bulk"])
def test_the_log_holds_cells_and_the_calibration_of_the_answers_own_cell(tmp_path: Path, road: str) -> None:
    settings, asked = Settings(home=tmp_path), records()
    with logging_to(settings, live_of(live_model(model=loaded_grouped()))) as asking:
        if road == "one":
            for record in asked:
                asking.ask(record)
        elif road == "batch":
            asking.ask_all(asked)
        else:
            asking.ask_in_bulk(asked)
    logged = answers_in(settings)
    assert len(logged) == len(asked)
    for record, answer in zip(asked, logged, strict=True):
        cell, facts = cell_of(record), answer.lineage
        age = "70 and above" if record["age"] >= 70 else "50 to below 70" if record["age"] >= 50 else "below 50"
        assert answer.groups == {"sex": cell.removeprefix("sex="), "age_band": age}
        assert answer.group_values == ({"sex": record["sex"]} if record.get("sex") else None)
        assert answer.input is not None
        assert "sex" not in answer.input
        assert facts["group"] == cell
        assert facts["groupings"] == ["sex", "age_band"]
        assert facts["slot"] == "champion"
        assert facts["calibration_sizes"] == list(calibration_of(cell).sizes)
        assert facts["calibration_id"] == calibration_of(cell).calibration_id
        ranks = np.array(answer.p_values) * (np.array(facts["calibration_sizes"]) + 1)
        assert np.abs(ranks - np.round(ranks)).max() < 1e-9  # the monitor reads ranks out of p-values
        assert facts["guarantee"] == ("class_and_group" if record.get("sex") else "class_conditional")
    replayed = list(Replayer(Models(), place_of(settings)).run(logged))  # type: ignore[arg-type]
    assert {r.state for r in replayed} == {"equal"}


def test_a_logged_cell_that_was_changed_is_seen_by_a_replay(tmp_path: Path) -> None:
    from dataclasses import replace

    settings = Settings(home=tmp_path)
    with logging_to(settings, live_of(live_model(model=loaded_grouped()))) as asking:
        asking.ask(toy_record(sex="male"))
    (answer,) = answers_in(settings)
    changed = replace(answer, groups={**(answer.groups or {}), "age_band": "below 50"})
    other = replace(answer, group_values={"sex": "female"})
    found = list(Replayer(Models(), place_of(settings)).run([changed, other]))  # type: ignore[arg-type]
    assert found[0].differs == ("groups",)
    assert set(found[1].differs) >= {"groups", "calibration_id", "p_values"}


def test_without_inputs_the_log_keeps_cells_and_no_values(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, log_inputs=False)
    with logging_to(settings, live_of(live_model(model=loaded_grouped()))) as asking:
        asking.ask(toy_record(sex="male"))
        asking.ask_in_bulk([toy_record(sex="male")])
    for answer in answers_in(settings):
        assert answer.groups == {"sex": "male", "age_band": "70 and above"}
        assert answer.group_values is None
        assert answer.input is None


def test_cells_and_values_are_erased_with_their_subject(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with logging_to(settings, live_of(live_model(model=loaded_grouped()))) as asking:
        asking.ask(toy_record(sex="male"), subject="someone")
    (file,) = log_files(settings.log)
    with closing(open_for_change(file.path)) as connection:
        assert erase_subjects(connection, [Pseudonyms(settings.subject_key).of("someone")]) == 1
    with closing(sqlite3.connect(file.path)) as connection:
        assert connection.execute("SELECT groups, group_values FROM entry").fetchall() == [(None, None)]


def test_the_scorecard_answers_with_its_own_calibration_of_the_group() -> None:
    live = live_of(opened(live_model(model=loaded_grouped())), flags={"fallback": ["scorecard"]})
    for record in records(6):
        answer = ask(live, record)
        assert answer.lineage.slot == "scorecard"
        expected = calibration_of(cell_of(record), of_scorecard=True)
        assert answer.lineage.calibration_id == expected.calibration_id
        row = expected.row([1 - (answer.probability or 0.0), answer.probability or 0.0], Decimal("0.9"))
        assert answer.p_values["1"] == row.p_values[1]
        assert answer.group == cell_of(record)


def test_a_prior_answers_with_every_label_in_the_group() -> None:
    live = live_of(live_model(OutputRunner(np.array([[np.nan, np.nan]])), model=loaded_grouped()))
    answer = ask(live, toy_record(sex="male"))
    assert (answer.lineage.slot, answer.prediction_set, answer.group) == ("prior", [0, 1], "sex=male")


def test_a_previous_champion_without_groups_answers_with_its_own_promise() -> None:
    champion = opened(live_model(model=loaded_grouped()))
    live = live_of(champion, previous=live_model(model=loaded_toy()), flags={"fallback": ["previous"]})
    answer = ask(live, toy_record(sex="male"))
    assert (answer.lineage.slot, answer.group, answer.guarantee) == ("previous", None, "class_conditional")
    assert numbers(answer) == numbers(ask(live_of(), toy_record()))


def test_bulk_answers_of_several_models_have_each_rows_own_lineage(tmp_path: Path) -> None:
    """A stream whose champion's circuit is open: the scorecard answers, by group."""
    settings, asked = Settings(home=tmp_path), records(9)
    live = live_of(opened(live_model(model=loaded_grouped())), flags={"fallback": ["scorecard"]})
    with logging_to(settings, live) as asking:
        asking.ask_in_bulk(asked)
    for record, answer in zip(asked, answers_in(settings), strict=True):
        assert answer.lineage["slot"] == "scorecard"
        expected = calibration_of(cell_of(record), of_scorecard=True)
        assert answer.lineage["calibration_id"] == expected.calibration_id
        assert answer.lineage["calibration_sizes"] == list(expected.sizes)


def test_an_arrow_reply_names_the_group_of_each_good_row() -> None:
    import asyncio

    from ml_core.serve.answering.inference import InferenceService
    from ml_core.serve.http.arrow_batches import answer_stream
    from ml_core.serve.http.arrow_reader import StreamLimits

    asked = [*records(5), toy_record(sex="male", age=200)]
    table = pa.Table.from_pylist(asked, schema=_schema())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    async def here(work: Any) -> Any:
        return work()

    def reply(service: InferenceService) -> pa.Table:
        stream = answer_stream(service, sink.getvalue(), StreamLimits(100, 1 << 20), here, on_error="row", level=None)
        return pa.ipc.open_stream(asyncio.run(stream)[1]).read_all()

    found = reply(InferenceService(live_of(live_model(model=loaded_grouped()))))
    assert found.column("group").to_pylist() == [*map(cell_of, asked[:5]), None]
    assert found.schema.metadata[b"guarantee"] == b"class_and_group"
    assert found.schema.metadata[b"lineage.calibration_id"].decode() == grouped_toy().bundle.manifest.calibration_id


def _schema() -> pa.Schema:
    numbers_of = {name: pa.float64() for name in ("glucose", "bmi", "bp_systolic")}
    return pa.schema({"age": pa.int64(), **numbers_of, "sex": pa.string()})


def test_a_challenger_in_shadow_is_compared_by_its_groups() -> None:
    shadow = Shadow()
    challenger = live_model(model=loaded_grouped())
    live = live_of(live_model(model=loaded_toy()), challenger=challenger, mode="shadow", flags={"shadow": True})
    import asyncio

    from ml_core.serve.answering.inference import InferenceService
    from ml_core.serve.answering.requests import PredictRequest

    service = InferenceService(live, shadow=shadow)
    for record in toy_records(4):
        asyncio.run(service.predict(PredictRequest(record)))
    shadow.drain(5.0)
    report = shadow.report(live.stage)
    assert (report.scored, report.failed) == (4, 0)


def test_an_answer_without_groups_calls_nothing_of_them() -> None:
    """The short way of every answer must not get longer for a model that has no groups."""
    import sys

    live = live_of()
    ask(live, toy_record())  # imports and caches
    seen: set[str] = set()

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            seen.add(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_qualname}")

    sys.setprofile(watch)
    try:
        ask(live, toy_record())
    finally:
        sys.setprofile(None)
    assert any(name.startswith("prediction_sets.py:ConformalCalibration.row") for name in seen)
    assert not [name for name in seen if name.startswith("groupings.py")]


def test_the_openapi_document_tells_the_columns_of_groups_as_optional() -> None:
    schema = live_model(model=loaded_grouped()).reader.json_schema()
    assert schema["properties"]["sex"]["anyOf"][0] == {"type": "string", "enum": ["female", "male"]}
    assert "sex" not in schema["required"]
    assert "sex" not in live_model().reader.json_schema()["properties"]
