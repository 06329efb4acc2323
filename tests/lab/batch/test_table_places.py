"""What an address is: a file, a folder of tables, or a store; what else is in a folder is told or left out."""

from pathlib import Path

import pytest

from ml_core.base.errors import DataError
from ml_core.lab.batch.object_files import object_address
from ml_core.lab.batch.table_places import beside, find_tables, local_path


@pytest.fixture
def folder(tmp_path):
    names = ("b/2.parquet", "a.csv", "b/1.parquet", "readme.txt", "_SUCCESS", ".a.csv.crc", "b/_old/x.parquet", "c.TSV")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    return tmp_path / "in"


def test_a_folder_is_its_tables_in_the_order_of_their_names(folder):
    found = find_tables(folder)
    assert found.names == ("a.csv", "b/1.parquet", "b/2.parquet", "c.TSV")
    assert found.places == tuple(folder / name for name in found.names)
    assert (found.is_folder, found.others) == (True, ("readme.txt",))


@pytest.mark.parametrize("address", ["file://{}", "file:{}", "{}"])
def test_a_local_address_is_a_path(folder, address):
    assert find_tables(address.format(folder)).places == find_tables(folder).places
    assert find_tables(Path(address.format(folder))).places == find_tables(folder).places


def test_a_file_is_itself_whether_or_not_it_is_there(tmp_path):
    found = find_tables(tmp_path / "no.parquet")
    assert (found.places, found.is_folder) == ((tmp_path / "no.parquet",), False)


def test_linked_folders_are_read_once_even_in_a_circle(folder, tmp_path):
    (folder / "b" / "around").symlink_to(folder / "b")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "z.parquet").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "far")
    assert find_tables(folder).names == ("a.csv", "b/1.parquet", "b/2.parquet", "c.TSV", "link/z.parquet")


def test_a_delta_table_is_refused_since_its_files_hold_rows_that_are_gone(folder):
    (folder / "b" / "_delta_log").mkdir()
    (folder / "b" / "_delta_log" / "0.json").write_text("{}")
    with pytest.raises(DataError, match="is a Delta table"):
        find_tables(folder)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.parquet and no \.csv file"):
        find_tables(tmp_path)


def test_a_path_has_lost_a_slash_of_an_address_and_gets_it_back():
    assert object_address(Path("s3://bucket/a/b.parquet")) == "s3://bucket/a/b.parquet"
    assert object_address("gs://bucket/a") == "gs://bucket/a"
    assert object_address("rows/2026:01.csv") is None
    assert object_address("file:///tmp/x") is None


@pytest.mark.parametrize(
    ("address", "words"), [("ftp://host/x", "is of the scheme ftp; s3://"), ("s3://", "names no bucket")]
)
def test_an_address_that_cannot_be_used_is_told(address, words):
    with pytest.raises(DataError, match=words):
        object_address(address)


def test_a_configuration_s_address_is_not_below_its_folder(tmp_path):
    assert beside(tmp_path, Path("rows.csv")) == tmp_path / "rows.csv"
    assert beside(tmp_path, Path("s3://bucket/rows")) == Path("s3://bucket/rows")
    assert local_path(beside(tmp_path, Path(f"file://{tmp_path}/x"))) == tmp_path / "x"
