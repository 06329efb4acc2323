"""Which answers are given again, and what the sum of it says."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.past_answers.replay import ReplayReport, _sampled, n_within, replay, with_client_id, with_ids, within
from ml_core.lab.past_answers.replayer import Replayed
from ml_core.serve.log.reader import PredictionLog
from tests.homes import bento_store
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import live_model, live_of, other_toy, toy_records
from tests.serve.answering.stored import Home


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield Home(tmp_path / "home")


@pytest.fixture
def logged(home):
    """Ten single answers, thirty of a batch, fifty of a bulk call: in this order in the log."""
    with logging_to(home.settings, live_of()) as asked:
        for i, record in enumerate(toy_records(10)):
            asked.ask(record, client_request_id=f"visit-{i // 2}")
        asked.ask_all(toy_records(30))
        asked.ask_in_bulk(toy_records(50))
    return answers_in(home.settings)


@pytest.fixture
def log(home):
    return PredictionLog(home.settings.log)


def ids(answers):
    return [answer.request_id for answer in answers]


# --- which answers ------------------------------------------------------------------------------------------------


def test_answers_asked_for_by_id_come_in_that_order_and_once(log, logged):
    wanted = [logged[80], logged[3], logged[20]]
    asked = [wanted[0].request_id.upper(), *ids(wanted), wanted[1].request_id]
    assert list(with_ids(log, asked)) == wanted


def test_more_ids_than_a_block(log, logged, monkeypatch):
    monkeypatch.setattr("ml_core.lab.past_answers.replay.ANSWERS_AT_ONCE", 7)
    assert ids(with_ids(log, reversed(ids(logged)))) == ids(logged)[::-1]


def test_unknown_and_erased_answers_are_settled_by_name(home, log, logged):
    erase(home.settings, logged[0])
    erased, unknown, kept = with_ids(log, [logged[0].request_id, nobodys_id(), logged[1].request_id])
    assert (erased.state, erased.request_id, erased.at) == ("erased", logged[0].request_id, logged[0].at)
    assert (unknown.state, unknown.request_id) == ("unknown_id", nobodys_id())
    assert kept == logged[1]


def test_what_is_no_id_is_refused(log, logged):
    with pytest.raises(ValueError):
        list(with_ids(log, ["visit-7"]))


def test_answers_by_the_callers_own_name(log, logged):
    assert list(with_client_id(log, "visit-3")) == logged[6:8]
    (unknown,) = with_client_id(log, "visit-77")
    assert (unknown.state, "visit-77" in unknown.note) == ("unknown_id", True)


def test_a_span_begins_with_its_first_moment_and_ends_before_its_last(log, logged):
    since, until = logged[2].at, logged[6].at
    assert list(within(log, since, until)) == logged[2:6]
    assert list(within(log, since + timedelta(microseconds=1), None)) == logged[3:]
    assert list(within(log, None, since)) == logged[:2]


def test_a_span_is_counted_as_it_is_read(log, logged):
    for since, until in [(None, None), (logged[2].at, logged[6].at), (logged[-1].at, None), (None, logged[-1].at)]:
        assert n_within(log, since, until) == len(list(within(log, since, until)))
    assert n_within(log, logged[-1].at + timedelta(days=9), None) == 0


def test_a_limit_takes_the_first(log, logged):
    assert list(within(log, None, None, limit=12)) == logged[:12]


def test_a_sample_is_the_same_for_the_same_seed(log, logged):
    first, again = (list(within(log, None, None, sample=20, seed=4)) for _ in range(2))
    other = list(within(log, None, None, sample=20, seed=5))
    assert ids(first) == ids(again) != ids(other)
    assert set(ids(first)) < set(ids(logged))


@given(n=st.integers(1, 30), size=st.integers(0, 60), seed=st.integers(0, 9))
def test_a_sample_holds_each_row_at_most_once(n, size, seed):
    found = _sampled(iter(range(size)), n, seed)
    assert len(found) == len(set(found)) == min(n, size)


def test_every_row_has_the_same_chance_to_be_in_a_sample():
    """4,000 samples of 3 of 8 rows: each row's count is Binomial(4000, 3/8); 6 standard deviations are 184."""
    counts = Counter(row for seed in range(4_000) for row in _sampled(range(8), 3, seed))
    assert all(abs(counts[row] - 1_500) < 184 for row in range(8))


def test_progress_adds_up_to_all_answers(log, logged):
    steps = []
    list(within(log, None, None, advance=steps.append))
    assert sum(steps) == len(logged)


# --- the sum ------------------------------------------------------------------------------------------------------


def test_all_equal(home, log, logged):
    report = replay(home.settings, within(log, None, None))
    assert report.counts == {"equal": 90}
    assert (report.answers, report.notes, report.max_difference) == ([], [], 0.0)
    (tally,) = report.models.values()
    assert (tally.version, tally.place, tally.counts) == ("1", home.v1, {"equal": 90})


def test_answers_asked_for_by_name_are_all_named(home, log, logged):
    wanted = ids(logged)[::20]
    report = replay(home.settings, with_ids(log, wanted), named=True)
    assert ids(report.answers) == wanted


def test_every_model_is_counted_by_itself(home, log, logged):
    live = live_of(live_model(), challenger=live_model(model=other_toy()), mode="canary", weight=1.0)
    with logging_to(home.settings, live) as asked:
        asked.ask_all(toy_records(4), level=Decimal("0.8"))
    shutil.rmtree(home.folder(home.v1))
    report = replay(home.settings, within(log, None, None))
    assert report.counts == {"model_missing": 90, "equal": 4}
    assert {tally.version: tally.counts for tally in report.models.values()} == {
        "1": {"model_missing": 90},
        "2": {"equal": 4},
    }
    assert len(report.notes) == 1
    assert len(report.answers) == 90


def test_a_long_list_of_differences_is_cut_and_still_counted(logged):
    report = ReplayReport()
    for i in range(1_000):
        report.add(Replayed(str(i), "different", max_difference=i / 1_000, note=str(i)), named=False)
    assert (report.counts, len(report.answers), len(report.notes)) == ({"different": 1_000}, 100, 100)
    assert report.max_difference == 0.999


def test_a_changed_number_in_the_database_is_found(home, log, logged):
    (file,) = log.files()
    with sqlite3.connect(file.path) as connection:
        (answer,) = connection.execute("SELECT answer FROM entry WHERE seq = 5").fetchone()
        changed = answer.replace(b'"probabilities":[0.', b'"probabilities":[0.0')
        assert changed != answer
        connection.execute("UPDATE entry SET answer = ? WHERE seq = 5", (changed,))
    report = replay(home.settings, within(log, None, None))
    assert report.counts == {"equal": 89, "different": 1}
    (found,) = report.answers
    assert (found.request_id, found.differs) == (logged[4].request_id, ("probabilities",))
