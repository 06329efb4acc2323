"""A project begun from any rows has files that hold together, and those rows pass by them."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.base.errors import ConfigError, DataError
from ml_core.base.settings import Settings
from ml_core.lab.config import load_config
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.lab.journeys.new_project import make_project, safe_name
from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.training.labelled_rows import rows_from_file

N = 240
RNG = np.random.default_rng(3)
HOSTILE = ["no", "yes", "<30", "3+", "0%", "yes, once", "a: b", "- x", "#5", "1.5", "2026-01-31", "~", "null", "é", "'q'", '"d"', "{x}", "[y]", "*a", "&b", "!t", "%", "@", "`", "a|b", " lead", "true", "0x1F", "1e3", "=1+1"]  # fmt: skip


def frame(**more):
    y = np.tile(["no", "yes"], N // 2)
    return pd.DataFrame({"y": y, "x": (y == "yes") + RNG.normal(0, 1, N), **more})


def begun(tmp_path, table, name="rows.csv", label="y", folder="my-risk", **options):
    path = tmp_path / name
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, **options.pop("written", {}))
    return make_project(path, tmp_path / folder, label, **options)


def dry_run(project):
    config = load_config(project.folder / "model.yaml")
    return FeaturePipeline(config, Settings(home=project.folder / ".surety")).run(dry_run=True)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_the_files_hold_together_and_every_row_passes(tmp_path, name):
    table = frame(
        town=RNG.choice(["a", "b"], N), smokes=RNG.choice([True, False], N), age=RNG.integers(20, 90, N),
        gap=np.where(np.arange(N) % 7 == 0, np.nan, RNG.normal(size=N)), when=pd.date_range("2026-01-01", periods=N), who=np.arange(N) // 2,
    )  # fmt: skip
    made = begun(tmp_path, table, name, group="who", time="when")
    assert {p.name for p in made.folder.iterdir()} == {
        "columns.yaml", "model.yaml", "README.md", "test_project.py", "Makefile", ".gitignore",
    }  # fmt: skip
    found = dry_run(made)
    assert (found.rows_in, found.rows_kept, found.problems) == (N, N, ())
    assert len((made.folder / "Makefile").read_text().splitlines()) == 4


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
        min_size=2,
        max_size=5,
        unique=True,
    ),
    labels=st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=4, unique=True),
    levels=st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=6, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_names_labels_and_levels_of_any_text_are_written_and_read_alike(tmp_path_factory, names, labels, levels, seed):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        names[0]: np.tile(labels, N)[:N], names[1]: rng.normal(size=N),
        **{name: rng.choice(levels, N) for name in names[2:]},
    })  # fmt: skip
    folder = tmp_path_factory.mktemp("hostile")
    made = begun(folder, table, "rows.parquet", label=names[0])
    found = dry_run(made)
    assert (found.rows_kept, found.problems) == (N, ())
    rows = rows_from_file(folder / "rows.parquet", load_config(made.folder / "model.yaml"))
    assert set(rows.classes) == set(labels)


def test_a_foreign_looking_file_is_read_the_same_way_every_time(tmp_path):
    table = frame(d=np.tile(["31.01.2026", "15.02.2026"], N // 2), g=np.where(np.arange(N) % 9 == 0, None, "ä"))
    table["d"] = RNG.permutation(table["d"])
    written = {"sep": ";", "decimal": ",", "encoding": "cp1252", "na_rep": "NA"}
    made = begun(tmp_path, table, written=written)
    config = load_config(made.folder / "model.yaml")
    csv = config.data.csv
    assert (csv.separator, csv.decimal, csv.encoding, csv.null_words) == (";", ",", "cp1252", ("NA",))
    assert config.data.dates == {"d": "%d.%m.%Y"}
    assert dry_run(made).problems == ()
    assert dry_run(made).rows_kept == N


def test_rows_without_a_label_are_left_out_and_said(tmp_path):
    table = frame()
    table.loc[:9, "y"] = None
    made = begun(tmp_path, table)
    assert load_config(made.folder / "model.yaml").data.leave_out_labels == (None,)
    assert (dry_run(made).left_out, dry_run(made).rows_kept) == (10, N - 10)


def test_a_class_too_small_is_left_out_and_said(tmp_path):
    table = frame()
    table.loc[:2, "y"] = "perhaps"
    made = begun(tmp_path, table)
    assert made.sizes.left_out == (("perhaps", 3),)
    assert "Left out, too few rows: `perhaps` (3 rows)" in (made.folder / "README.md").read_text()
    assert dry_run(made).rows_kept == N - 3


def test_what_is_promised_is_what_training_will_find(tmp_path):
    """The classes' sizes in every part are those of the split that training makes."""
    made = begun(tmp_path, frame(who=[f"p{i // 3}" for i in range(N)]), group="who")
    config = load_config(made.folder / "model.yaml")
    rows = rows_from_file(tmp_path / "rows.csv", config)
    for k, one in enumerate(made.sizes.classes):
        for part, n in (("calibration", one.calibration), ("test", one.test)):
            assert int((rows.part(part).y_index == k).sum()) == n
    assert config.gate.min_positives <= min(one.test for one in made.sizes.classes)
    assert needed_rows(config.conformal.confidence_level) <= min(one.calibration for one in made.sizes.classes)


def test_few_rows_lower_the_level_unless_one_is_asked_for(tmp_path):
    few = frame().iloc[:60]
    assert begun(tmp_path, few).sizes.level < Decimal("0.9")
    with pytest.raises(DataError, match="add rows"):
        begun(tmp_path, few, folder="other", level=Decimal("0.99"))


def test_the_level_of_plenty_is_ninety_percent(tmp_path):
    made = begun(tmp_path, pd.concat([frame()] * 6, ignore_index=True))
    assert (made.sizes.level, made.sizes.min_positives, made.sizes.split.train) == (Decimal("0.90"), 100, 0.5)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "my-risk").mkdir()
    (tmp_path / "my-risk" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already: name a new folder, or remove it"):
        begun(tmp_path, frame())
    assert [p.name for p in (tmp_path / "my-risk").iterdir()] == ["mine.txt"]


def test_groups_worth_watching_are_there_to_be_uncommented(tmp_path):
    made = begun(tmp_path, frame(sex=RNG.choice(["f", "m"], N), age=RNG.integers(20, 90, N)))
    text = (made.folder / "model.yaml").read_text()
    opened = text.replace("  # groups:", "  groups:").replace("  #   - {", "    - {")
    assert opened != text
    (made.folder / "model.yaml").write_text(opened)
    groups = load_config(made.folder / "model.yaml").conformal.groups
    assert [(g.name, g.column, bool(g.cuts)) for g in groups] == [("by_sex", "sex", False), ("by_age", "age", True)]
    assert yaml.safe_load(text)["conformal"].keys() == {"confidence_level", "guarantee"}


def test_the_name_of_a_model_is_made_safe():
    names = ["My risk (2026)", "Ängste", "", "...", "a" * 200, "UPPER", "_x_"]
    for name in map(safe_name, names):
        assert 1 <= len(name) <= 60
        assert name == name.lower()
        assert name[0].isalnum()
