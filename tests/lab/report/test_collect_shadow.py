from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.report.collect_period import DAY, Stretch
from ml_core.lab.report.collect_shadow import NamedModel, _bars, shadow_pairs
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.rollout.rollout_state import RolloutState
from tests.serve.answering.builders import worker_report

NOW = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = Stretch(NOW - 7 * DAY, NOW, DAY)
V1, V2, V3 = "a" * 64, "b" * 64, "c" * 64
MODELS = {V1: NamedModel("toy:v1-aa", (0, 1)), V2: NamedModel("toy:v2-bb", (0, 1))}


def line(champion=0.2, challenger=0.3, *, hours=1.0, models=(V1, V2), same_set=True) -> str:
    """One request that came so many hours before now; the label with more than a half is predicted."""
    at_ms = int((NOW - timedelta(hours=hours)).timestamp() * 1_000)
    before, after = int(champion > 0.5), int(challenger > 0.5)
    return json.dumps(
        {
            "request_id": str(uuid.UUID(bytes=at_ms.to_bytes(6, "big") + uuid.uuid4().bytes[6:])),
            "champion": models[0],
            "challenger": models[1],
            "prediction": [before, after],
            "set": [[before], [before] if same_set else [0, 1]],
            "probability": [[1 - champion, champion], [1 - challenger, challenger]],
            "difference": abs(challenger - champion),
        }
    )


def pairs(folder, *lines, reports=(), state=None, name="w.jsonl"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return shadow_pairs(folder, PERIOD, MODELS, reports, state, Gaps())


def shadowing(stage: int = 4) -> RolloutState:
    return RolloutState(
        model_name="toy", generation=4, stage=stage, champion="toy:v1-aa", challenger="toy:v2-bb", mode="shadow",
        changed_at="", changed_by="", why="",
    )  # fmt: skip


def counted(stage: int = 4, **shadow):
    return worker_report(1, 1_000.0, stage=stage, shadow=shadow)


def test_lines_are_counted_pair_by_pair(tmp_path):
    (pair,) = pairs(tmp_path, line(0.2, 0.3), line(0.4, 0.6, same_set=False), line(0.9, 0.8))
    assert (pair.champion, pair.challenger) == ("toy:v1-aa", "toy:v2-bb")
    assert (pair.scored, pair.agreed, pair.same_set) == (3, 2, 2)
    assert pair.mean_difference == pytest.approx(0.4 / 3)
    assert pair.max_difference == pytest.approx(0.2)


def test_a_difference_has_the_sign_of_the_challengers_view_of_the_champions_prediction(tmp_path):
    (pair,) = pairs(tmp_path, line(0.2, 0.31), line(0.9, 0.79), line(0.9, 0.95))
    middles = [(low + high) / 2 for low, high in zip(pair.edges, pair.edges[1:], strict=False)]
    held = [middle for middle, n in zip(middles, pair.counts, strict=True) for _ in range(n)]
    assert held == pytest.approx([-0.11, -0.11, 0.05], abs=0.011)


def test_lines_of_other_times_are_left_out(tmp_path):
    (pair,) = pairs(tmp_path, line(hours=1), line(hours=24 * 8), line(hours=-1))
    assert pair.scored == 1


def test_lines_that_a_killed_process_left_unfinished_are_passed_over(tmp_path):
    whole = line()
    (pair,) = pairs(
        tmp_path, whole, whole[:40], "", "[]", '{"request_id": 7}', whole.replace('"set": [', '"set": 4, "x": ['), whole
    )
    assert pair.scored == 2


def test_lines_with_nan_are_read(tmp_path):
    (pair,) = pairs(tmp_path, line().replace("[0.8, 0.2]", "[0.8, NaN]"))
    assert (pair.scored, sum(pair.counts)) == (1, 1)


def test_the_newest_pair_comes_first_and_an_unknown_one_is_named_by_hash(tmp_path):
    old = [line(hours=30, models=(V3, V1))] * 3
    found = pairs(tmp_path, *old, line(hours=2))
    assert [(pair.champion, pair.scored) for pair in found] == [("toy:v1-aa", 1), ("c" * 12, 3)]
    assert found[1].counts == ()


def test_processes_counts_are_told_where_they_have_seen_more(tmp_path):
    report = counted(scored=10, dropped=2, failed=1, agreed=8, same_set=7, mean_difference=0.5, max_difference=0.9)
    (pair,) = pairs(tmp_path, line(), reports=[report, counted(stage=3, scored=99)], state=shadowing())
    assert (pair.scored, pair.agreed, pair.same_set, pair.dropped, pair.failed) == (10, 8, 7, 2, 1)
    assert (pair.mean_difference, pair.max_difference, sum(pair.counts)) == (0.5, 0.9, 1)


def test_lines_are_told_where_they_have_seen_more(tmp_path):
    (pair,) = pairs(tmp_path, line(), line(), reports=[counted(scored=1, dropped=3)], state=shadowing())
    assert (pair.scored, pair.dropped) == (2, 3)


def test_a_pair_that_has_scored_nothing_yet_is_told(tmp_path):
    (pair,) = shadow_pairs(tmp_path, PERIOD, MODELS, [], shadowing(), Gaps())
    assert (pair.challenger, pair.scored, pair.mean_difference) == ("toy:v2-bb", 0, None)


def test_a_file_that_cannot_be_read_leaves_a_gap_and_the_others_are_told(tmp_path):
    (tmp_path / "x.jsonl.1").mkdir()
    gaps = Gaps()
    (tmp_path / "w.jsonl").write_text(line() + "\n")
    (pair,) = shadow_pairs(tmp_path, PERIOD, MODELS, [], None, gaps)
    assert pair.scored == 1
    assert [gap.part for gap in gaps.found] == ["shadow"]


@given(st.lists(st.integers(0, 399), min_size=1, max_size=50))
def test_bars_hold_every_difference_and_are_few(places):
    cells = [places.count(k) for k in range(400)]
    edges, counts = _bars(cells)
    assert sum(counts) == len(places)
    assert len(counts) == 40
    assert edges[0] == -edges[-1] >= -1.0
