from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import ConfigError, DataError, InvalidRows
from ml_core.lab.config import SplitConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.training.labelled_rows import (
    PARTS,
    label_rows,
    place_of,
    rows_from_file,
    rows_from_store,
    split_in_time,
    split_of,
)
from ml_core.serve.model.manifest import TrainingFacts
from tests.homes import road_config, road_rows, settings_in


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_cohort(300, seed=5)[0]


def test_no_patient_is_in_two_parts():
    rows = road_rows()
    patients = [set(rows.part(name).groups.tolist()) for name in ("train", "validation", "calibration", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert sum(rows.counts.values()) == len(rows) == sum(len(rows.part(p)) for p in rows.counts)


def test_parts_keep_every_encounter_of_their_patients_and_match_their_matrix():
    rows = road_rows()
    test = rows.part("test")
    assert np.array_equal(test.matrix, rows.matrix[rows.parts == "test"], equal_nan=True)
    assert len(set(test.groups.tolist())) < len(test)


def test_the_store_names_table_and_version():
    rows = road_rows()
    assert (rows.table, rows.table_version, rows.classes) == ("v1", 0, (0, 1))


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="surety features run"):
        rows_from_store(road_config(), settings_in(tmp_path))


def test_a_file_gives_the_same_rows_as_the_table(tmp_path):
    path = tmp_path / "rows.parquet"
    road_rows().frame.to_parquet(path)
    rows = rows_from_file(path, road_config())
    assert np.array_equal(rows.matrix, road_rows().matrix, equal_nan=True)
    assert np.array_equal(rows.parts, road_rows().parts)
    assert (rows.table, rows.origin) == ("", "file rows.parquet")


@pytest.mark.parametrize("column", ["readmission_30d", "patient_id"])
def test_label_and_patient_must_be_there(frame, column):
    with pytest.raises(DataError, match=f"no column {column}"):
        label_rows(frame.drop(columns=column), "v1", SplitConfig(), "here")


def test_a_patient_may_not_be_null(frame):
    frame.loc[3, "patient_id"] = None
    with pytest.raises(DataError, match="patient_id has nulls"):
        label_rows(frame, "v1", SplitConfig(), "here")


def test_one_class_is_not_enough(frame):
    with pytest.raises(DataError, match="one class only"):
        label_rows(frame[frame["readmission_30d"] == 0], "v1", SplitConfig(), "here")


def test_labels_outside_the_column_table_are_refused_without_being_shown(frame):
    frame["readmission_30d"] = frame["readmission_30d"].replace(1, 77)
    with pytest.raises(DataError, match="1 labels that are no level") as caught:
        label_rows(frame, "v1", SplitConfig(), "here")
    assert "77" not in str(caught.value)


def test_rows_that_break_the_column_table_are_refused(frame):
    frame.loc[0, "age"] = 300
    with pytest.raises(InvalidRows, match="age"):
        _ = label_rows(frame, "v1", SplitConfig(), "here").matrix


def test_only_the_newest_rows_calibrate_and_test_where_that_is_configured():
    frame = make_cohort(1_200, seed=5)[0]
    usual = label_rows(frame, "v1", SplitConfig(), "x")
    rows = label_rows(frame, "v1", SplitConfig(newest_rows=1_000), "x")
    assert rows.newest.tolist() == [False] * 200 + [True] * 1_000
    assert rows.recent().frame.index.tolist() == list(range(200, 1_200))
    moved = ~rows.newest & np.isin(usual.parts, ("calibration", "test"))
    assert rows.parts.tolist() == np.where(moved, "left_out", usual.parts).tolist()
    assert usual.recent().frame.equals(usual.frame)


# --- splits ----------------------------------------------------------------------------------------------------------


# printf 'surety-split-1:135' | sha256sum begins with 5ed0d2f8e84fd765, so place = 0x5ed0... / 2^64 = 0.3704, and so on.
BY_HAND = {
    135: ("5ed0d2f8e84fd765", "train"),
    3069: ("9689d7cbf7a87e88", "validation"),
    1152: ("9c38c3b0d8d7af95", "calibration"),
    774: ("cbf0a2d2c6f925ac", "calibration"),
    378: ("e271d52d47a5ee7e", "test"),
    927: ("e8d32f5f149f7d3a", "test"),
}


def test_places_and_parts_are_those_worked_out_by_hand():
    for group, (digest, _) in BY_HAND.items():
        assert place_of(group, "surety-split-1") == pytest.approx(int(digest, 16) / 2**64, abs=2**-52)
    assert split_of(list(BY_HAND), SplitConfig()).tolist() == [part for _, part in BY_HAND.values()]


def test_a_number_and_its_text_are_the_same_patient():
    numbers = np.arange(1, 500)
    for same in (numbers.astype(str), numbers.astype(float), numbers.astype(object)):
        assert (split_of(numbers, SplitConfig()) == split_of(same, SplitConfig())).all()


@given(groups=st.lists(st.integers(1, 50), min_size=1, max_size=60), data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_patient_stays_whole_and_stays_put_whatever_else_is_there(groups, data):
    parts = split_of(groups, SplitConfig())
    order = data.draw(st.permutations(range(len(groups))))
    assert parts[order].tolist() == split_of([groups[i] for i in order], SplitConfig()).tolist()
    some = data.draw(st.integers(1, len(groups)))
    assert split_of(groups[:some], SplitConfig()).tolist() == parts[:some].tolist()


def test_parts_have_their_shares():
    parts = split_of(np.arange(100_000), SplitConfig())
    share = {part: float((parts == part).mean()) for part in PARTS}
    # five standard deviations of a binomial share at n = 100,000
    assert share == pytest.approx({"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}, abs=0.008)


def test_another_salt_is_another_split():
    groups = np.arange(10_000)
    a, b = (split_of(groups, SplitConfig(salt=salt)) for salt in ("surety-split-1", "surety-split-2"))
    assert 0.30 < float((a == b).mean()) < 0.38  # independent: 0.5^2 + 0.1^2 + 0.2^2 + 0.2^2 = 0.34


# --- splits in time --------------------------------------------------------------------------------------------------

IN_TIME = SplitConfig(by="time")
NO_TIME = np.iinfo(np.int64).max


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-5, 40) | st.just(NO_TIME), min_size=1, max_size=300),
    st.sampled_from([(0.5, 0.1, 0.2, 0.2), (0.8, 0.05, 0.1, 0.05), (0.25, 0.25, 0.25, 0.25)]),
)
def test_no_row_is_in_an_earlier_part_than_an_older_row(times, shares):
    split = SplitConfig(by="time", **dict(zip(PARTS, shares, strict=True)))
    moments = np.array(times, dtype=np.int64)
    parts = [PARTS.index(part) for part in split_in_time(moments, split).tolist()]
    keys = list(zip(times, range(len(times)), strict=True))
    in_order = [parts[place] for _, place in sorted(keys)]
    assert in_order == sorted(in_order)
    known = {time for time in times if time != NO_TIME}
    assert all(len({p for p, t in zip(parts, times, strict=True) if t == time}) == 1 for time in known)


def test_rows_of_different_times_are_shared_out_as_configured():
    parts = split_in_time(np.random.default_rng(1).permutation(1_000), SplitConfig(by="time"))
    assert [int((parts == part).sum()) for part in PARTS] == [500, 100, 200, 200]


def test_the_order_is_that_of_the_time_column_wherever_a_row_stands_in_the_table(frame):
    mixed = frame.sample(frac=1.0, random_state=4).reset_index(drop=True)
    rows = label_rows(mixed, "v1", IN_TIME, "here")
    dates = [rows.part(part).frame["encounter_date"] for part in PARTS]
    assert all(len(part) for part in dates)
    assert all(a.max() < b.min() for a, b in itertools.pairwise(dates))


def test_a_column_that_is_no_time_may_order_the_rows_and_one_without_order_may_not(frame):
    rows = label_rows(frame, "v1", SplitConfig(by="time", order_by="age"), "here")
    assert rows.part("train").frame["age"].max() < rows.part("test").frame["age"].min()
    for name in ("patient_id", "nowhere"):
        with pytest.raises(ConfigError, match=f"order_by: {name} is no whole-number or datetime column of v1"):
            label_rows(frame, "v1", SplitConfig(by="time", order_by=name), "here")


def test_a_split_in_time_needs_times(frame):
    with pytest.raises(DataError, match="column that orders the rows of a split in time is empty"):
        label_rows(frame.assign(encounter_date=None), "v1", IN_TIME, "here")
    with pytest.raises(DataError, match="no column encounter_date"):
        label_rows(frame.drop(columns="encounter_date"), "v1", IN_TIME, "here")
    with pytest.raises(ConfigError, match=r"split\.order_by: v2 has no column with the role time"):
        label_rows(pd.DataFrame({"readmission_30d": [0, 1], "patient_nbr": [1, 2]}), "v2", IN_TIME, "here")


def test_rows_without_a_time_are_the_newest_in_the_order_of_the_table(frame):
    frame["encounter_date"] = frame["encounter_date"].astype(object)
    frame.loc[:29, "encounter_date"] = None
    rows = label_rows(frame, "v1", IN_TIME, "here")
    assert rows.part("test").positions.tolist()[:30] == list(range(30))
    assert set(rows.parts[:30]) == {"test"}


def test_who_returns_is_who_has_a_row_in_an_earlier_part():
    rows = label_rows(make_cohort(2_000, seed=5)[0], "v1", IN_TIME, "here")
    place = [PARTS.index(part) for part in rows.parts.tolist()]
    first: dict[str, int] = {}
    for patient, number in zip(rows.groups.tolist(), place, strict=True):
        first[patient] = min(number, first.get(patient, 9))
    expected = [number > first[patient] for patient, number in zip(rows.groups.tolist(), place, strict=True)]
    assert rows.returning.tolist() == expected
    assert rows.part("test").returning.any()
    assert not road_rows().returning.any()


def facts(rows, **params) -> TrainingFacts:
    shares = {"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}
    return TrainingFacts(
        table=rows.table, table_version=0, split_salt="surety-split-1", split_shares=shares, rows=rows.counts, seed=1,
        params=params,
    )  # fmt: skip


def test_unseen_by_a_split_in_time_is_what_is_newer_than_all_it_saw():
    rows = label_rows(make_cohort(2_000, seed=5)[0], "v1", IN_TIME, "here")
    time, position = rows.seen_until()
    unseen = rows.unseen_by(facts(rows, split_by="time", split_seen_until=time, split_seen_position=position))
    assert unseen.tolist() == (rows.parts == "test").tolist()


def test_rows_without_a_time_are_new_unless_the_model_saw_such_rows(frame):
    frame["encounter_date"] = frame["encounter_date"].astype(object)
    old = label_rows(frame.iloc[:200], "v1", IN_TIME, "here")
    seen = old.seen_until()
    frame.loc[200:, "encounter_date"] = None
    rows = label_rows(frame, "v1", IN_TIME, "here")
    one = facts(rows, split_by="time", split_seen_until=seen[0], split_seen_position=seen[1])
    unseen = rows.unseen_by(one)
    assert unseen[200:].all()
    assert rows.only(np.arange(300) >= 200).unseen_by(one).all()
    assert unseen[:200].tolist() == (old.parts == "test").tolist()
    other = facts(rows, split_by="time", split_seen_until=NO_TIME, split_seen_position=249)
    assert rows.unseen_by(other).tolist() == [False] * 250 + [True] * 50
    elsewhere = other.model_copy(update={"table": "v9"})
    assert not rows.unseen_by(elsewhere).any()


def test_unseen_by_a_split_by_patient_are_its_test_patients():
    rows = label_rows(make_cohort(2_000, seed=5)[0], "v1", IN_TIME, "here")
    usual = split_of(rows.groups, SplitConfig())
    assert rows.unseen_by(facts(rows)).tolist() == (usual == "test").tolist()


def test_in_time_the_newest_rows_are_the_latest_not_the_last_of_the_table():
    frame = make_cohort(4_000, seed=5)[0].iloc[::-1].reset_index(drop=True)
    rows = label_rows(frame, "v1", SplitConfig(by="time", newest_rows=1_000), "x")
    assert rows.newest.sum() == 1_000
    assert rows.recent().frame["encounter_date"].min() >= rows.frame["encounter_date"][~rows.newest].max()
    assert "left_out" in rows.counts
