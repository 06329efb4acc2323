"""What a table cannot say of itself is asked, with what to write as the answer."""

import numpy as np
import pandas as pd
import pytest

from ml_core.lab.data.column_plan import plan_columns
from ml_core.lab.data.table_profile import profile_file
from ml_core.lab.data.table_questions import find_giveaways, questions_about, sentinels

N = 400
RNG = np.random.default_rng(5)


def asked(tmp_path, columns, suffix=".csv", **more):
    frame = pd.DataFrame({"y": ["no", "yes"] * (N // 2), "x": RNG.normal(size=N).round(3), **columns})
    path = tmp_path / f"t{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path, index=False)
    table = profile_file(path)
    plan = plan_columns(table, "y", **more)
    return questions_about(table, plan, find_giveaways(table, plan))


def one(questions, words):
    (found,) = [q for q in questions if words in q.text]
    return found


def test_a_copy_of_the_label_stops_training_until_it_is_answered(tmp_path):
    questions = asked(tmp_path, {"outcome_code": [7, 8] * (N // 2)})
    found = questions[0]
    assert found.stops
    assert "`outcome_code` alone tells every class" in found.text
    assert "data.known_before: [outcome_code]" in found.answer
    assert sum(q.stops for q in questions) == 1


def test_a_column_that_tells_one_of_three_classes_only_asks(tmp_path):
    y = RNG.integers(0, 3, N)
    columns = {"y": [f"k{k}" for k in y], "t": np.where(y == 1, 50.0, RNG.normal(size=N)).round(3)}
    questions = asked(tmp_path, columns)
    assert "class k1: 1.000" in one(questions, "tell one class nearly alone").text
    assert not any(q.stops for q in questions)


@pytest.mark.parametrize(
    ("value", "others", "found"),
    [
        (-999, RNG.integers(0, 120, N), (-999.0,)),
        (9_999, RNG.integers(0, 120, N), (9_999.0,)),
        (99, RNG.integers(0, 10, N), (99.0,)),
        (99, RNG.integers(0, 99, N), ()),  # ninety-nine among its like is a number
        (-1, RNG.integers(0, 2, N), ()),
        (500, RNG.integers(0, 120, N), ()),
    ],
)
def test_sentinels_stand_apart_and_are_made_of_nines(tmp_path, value, others, found):
    values = np.where(np.arange(N) % 20 == 0, value, others)
    pd.DataFrame({"v": values}).to_csv(tmp_path / "v.csv", index=False)
    assert sentinels(profile_file(tmp_path / "v.csv").column("v")) == found
    questions = asked(tmp_path, {"v": values})
    told = [q for q in questions if "far from its other values" in q.text]
    assert [q.answer.split(" in model.yaml")[0] for q in told] == [
        f"if so: data.null_values: {{v: [{', '.join(f'{v:g}' for v in found)}]}}" for _ in found
    ]


def test_several_rows_a_subject_are_asked_about_unless_the_group_is_named(tmp_path):
    columns = {"patient_id": np.arange(N) % 90 + 5_000, "y": RNG.permutation(["no", "yes"] * (N // 2))}
    assert "`patient_id` (90 values in 400 rows)" in one(asked(tmp_path, columns), "taken as a subject of its own").text
    assert not any("subject of its own" in q.text for q in asked(tmp_path, columns, group="patient_id"))


def test_words_for_nothing_among_the_levels_are_asked_about(tmp_path):
    town = RNG.permutation(["a", "unknown"] * (N // 2))
    assert "`town`: 'unknown' in 200 rows" in one(asked(tmp_path, {"town": town}), "nothing is known").text


def test_what_else_is_asked(tmp_path):
    columns = {
        "when": ["03/04/2026", "05/06/2026"] * 50 + ["07/08/2026", "01/02/2026"] * 150,
        "grade": RNG.permutation([1, 2, 3, 4] * (N // 4)),
        "sex": RNG.permutation(["f", "m"] * (N // 2)),
        "note": [f"words {i} of {i * i}" for i in range(N)],
        "town": ["c"] * 3 + ["a", "b"] * ((N - 3) // 2) + ["a"],
    }
    texts = "\n".join(q.text for q in asked(tmp_path, columns))
    for words in (
        "`when`: dates, taken apart", "`when` are read as %d/%m/%Y; %m/%d/%Y would read them as well", "`grade` (4)",
        "Groups worth watching: `sex`", "Left out: `note` differs in nearly every row", "fewer than ten rows: `town`",
        "have bounds guessed from what was seen",
    ):  # fmt: skip
        assert words in texts, words


def test_rows_without_a_label_and_rows_that_repeat_are_asked_about(tmp_path):
    columns = {"y": ["no", "yes", None, "no"] * (N // 4), "x": np.repeat(RNG.normal(size=N // 4), 4)}
    texts = "\n".join(q.text for q in asked(tmp_path, columns, suffix=".parquet"))
    assert "100 rows have no `y` and are left out" in texts
    assert "100 rows repeat another row in every column" in texts


def test_every_question_has_an_answer(tmp_path):
    assert all(q.text and q.answer for q in asked(tmp_path, {"age": RNG.integers(0, 90, N)}))
