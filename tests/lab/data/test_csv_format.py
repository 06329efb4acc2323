"""How a text table is written is found out, said, and then read so."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.config import CsvConfig
from ml_core.lab.data.csv_format import detect_layout, format_in_words
from ml_core.lab.data.table_frames import column_names, plain_marks, read_table, type_text
from ml_core.lab.data.table_profile import profile_file

COLUMNS = (Column("name", "text", ""), Column("weight", "float", ""), Column("count", "int", ""))


def written(path, form, rows=(("Zoë", 1.5, 3), ("Ján, the second", 2_250.25, 12), ("x", 0.125, 0))):
    """A table of three columns in that form; the second row has no count."""

    def number(value):
        text = f"{value:,}" if form.thousands else f"{value}"
        return text.translate(str.maketrans({",": form.thousands, ".": form.decimal}))

    def cell(text):
        return f'"{text}"' if form.separator in text else text

    null = form.null_words[0] if form.null_words else ""
    lines = [form.separator.join(("name", "weight", "count"))]
    for at, (name, weight, count) in enumerate(rows):
        lines.append(form.separator.join((cell(name), cell(number(weight)), null if at == 1 else str(count))))
    path.write_bytes(("\n".join(lines) + "\n").encode(form.encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("null_words", [(), ("NA",), ("?",), ("-",), ("None",)])
def test_what_is_written_is_found_and_read(tmp_path, separator, decimal, encoding, null_words):
    rows = (("Zoë", 1.5, 3), ("J, the second", 2_250.25, 12), ("x", 0.125, 0))
    form = CsvConfig(separator=separator, decimal=decimal, encoding=encoding, null_words=null_words)
    found = profile_file(written(tmp_path / "t.csv", form, rows)).form
    assert found == form
    frame = type_text(read_table(tmp_path / "t.csv", ["name", "weight", "count"], found), COLUMNS, found)
    assert frame["name"].tolist() == ["Zoë", "J, the second", "x"]
    assert frame["weight"].tolist() == [1.5, 2250.25, 0.125]
    assert frame["count"].isna().tolist() == [False, True, False]
    assert frame["count"].dropna().tolist() == [3, 0]


@pytest.mark.parametrize(("decimal", "thousands"), [(".", ","), (",", ".")])
def test_thousands_are_found_and_asked_about(tmp_path, decimal, thousands):
    form = CsvConfig(separator=";", decimal=decimal, thousands=thousands)
    table = profile_file(written(tmp_path / "t.csv", form))
    assert table.form == form
    assert table.column("weight").high == 2_250.25


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "t.csv").write_bytes("a;b\n1;2\n".encode("utf-8-sig"))
    form = detect_layout(tmp_path / "t.csv")
    assert (form.encoding, column_names(tmp_path / "t.csv", form)) == ("utf-8", ["a", "b"])


def test_a_late_letter_decides_the_encoding(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n" + b"x,1\n" * 500_000 + "é,2\n".encode("cp1252"))
    assert detect_layout(tmp_path / "t.csv").encoding == "cp1252"


def test_a_word_for_nothing_stays_a_level_where_no_number_stands_beside_it(tmp_path):
    (tmp_path / "t.csv").write_text("parking,rooms\nNone,3\ngarage,4\nNone,-\n")
    table = profile_file(tmp_path / "t.csv")
    assert table.form.null_words == ("-",)
    assert dict(table.column("parking").counts) == {"None": 2, "garage": 1}


def test_the_format_is_told_in_words():
    form = CsvConfig(separator=";", decimal=",", encoding="cp1252", null_words=("NA",))
    assert format_in_words(form) == "cells separated by semicolon, decimal comma, cp1252; null words: NA"


def test_a_semicolon_table_read_as_commas_says_what_to_set(tmp_path):
    (tmp_path / "t.csv").write_text("age;weight\n1;2\n")
    with pytest.raises(
        DataError, match=r"has no column age; its cells seem to be separated by ';': set data\.csv\.separator"
    ):
        read_table(tmp_path / "t.csv", ["age"])


def test_another_encoding_says_what_to_set(tmp_path):
    (tmp_path / "t.csv").write_bytes("a\né\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"is not UTF-8 text: set data\.csv\.encoding"):
        read_table(tmp_path / "t.csv", ["a"])
    assert read_table(tmp_path / "t.csv", ["a"], CsvConfig(encoding="cp1252"))["a"].tolist() == ["é"]


def test_a_quote_that_stays_open_is_seen_in_two_byte_text(tmp_path):
    (tmp_path / "t.csv").write_bytes('a\n"x\n'.encode("utf-16"))
    with pytest.raises(DataError, match="quote stays open"):
        read_table(tmp_path / "t.csv", ["a"], CsvConfig(encoding="utf-16"))


@settings(deadline=None, max_examples=200)
@given(value=st.floats(allow_nan=False, allow_infinity=False, width=64), mark=st.sampled_from([",", "."]))
def test_a_number_survives_its_marks(value, mark):
    form = CsvConfig(decimal=mark, thousands="" if mark == "." else ".")
    text = repr(value).replace(".", mark)
    assert float(plain_marks(pd.Series([text], dtype=object), form)[0]) == value


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=12))
def test_a_text_that_is_no_number_keeps_its_marks(text):
    form = CsvConfig(decimal=",", thousands=".")
    read = plain_marks(pd.Series([text], dtype=object), form)[0]
    assert read == text or float(read) is not None
