"""Objects of a home: one suite over a folder and an S3 server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import ArtefactError, ConfigError, HomeUnreachable
from ml_core.serve.home.object_stores import FolderObjects, NetworkObjects, open_objects
from tests.object_server import Bucketeer
from tests.oracles import cluster_packages

if TYPE_CHECKING:
    from ml_core.serve.home.stores import Objects


@pytest.fixture(params=["folder", "file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    if request.param == "folder":
        return open_objects(str(tmp_path / "objects"))
    if request.param == "file":
        return open_objects((tmp_path / "objects").as_uri())
    cluster_packages()
    server: Bucketeer = request.getfixturevalue("bucketeer")
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    return open_objects(server.new_bucket())


def test_what_was_put_is_got(objects: Objects) -> None:
    assert objects.put("models/3f/model.onnx", b"\x00\x01")
    assert objects.get("models/3f/model.onnx", 2) == b"\x00\x01"


def test_what_is_not_there_is_none(objects: Objects) -> None:
    assert objects.get("models/3f/model.onnx", 10) is None
    assert list(objects.names("models")) == []
    objects.remove("models/3f/model.onnx")


def test_an_object_is_not_replaced_unasked(objects: Objects) -> None:
    assert objects.put("a", b"first")
    assert not objects.put("a", b"second")
    assert objects.get("a", 10) == b"first"
    assert objects.put("a", b"third", replace=True)
    assert objects.get("a", 10) == b"third"


def test_one_of_many_makes_an_object(objects: Objects) -> None:
    made: list[bool] = []
    threads = [threading.Thread(target=lambda i=i: made.append(objects.put("a", b"%d" % i))) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 1


def test_names_below_a_prefix_come_in_order(objects: Objects) -> None:
    for name in ("models/b/2", "models/a/1", "models-of-others/c", "sealed/x"):
        objects.put(name, b"")
    assert list(objects.names("models")) == ["models/a/1", "models/b/2"]


def test_what_was_removed_is_gone(objects: Objects) -> None:
    objects.put("models/a", b"1")
    objects.remove("models/a")
    assert objects.get("models/a", 1) is None
    assert objects.put("models/a", b"2")


def test_an_object_larger_than_allowed_is_not_read(objects: Objects) -> None:
    objects.put("a", bytes(11))
    with pytest.raises(ArtefactError, match="more than"):
        objects.get("a", 10)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", "."])
def test_a_name_stays_below_the_root(objects: Objects, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        objects.get(name, 10)
    with pytest.raises(ValueError, match="no name"):
        objects.put(name, b"")


@given(st.dictionaries(st.from_regex(r"[a-z]/[a-z0-9_.-]{1,20}\.bin", fullmatch=True), st.binary(max_size=20)))
def test_a_folder_holds_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, bytes]
) -> None:
    objects = FolderObjects(tmp_path_factory.mktemp("objects"))
    for name, content in wanted.items():
        assert objects.put(name, content)
    found = [name for head in sorted({name[0] for name in wanted}) for name in objects.names(head)]
    assert {name: objects.get(name, 20) for name in found} == wanted
    assert found == sorted(wanted)


def test_a_store_that_is_away_is_an_error_of_ours(bucketeer: Bucketeer, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster_packages()
    for name, value in {**bucketeer.settings, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    objects = NetworkObjects("s3://nowhere/prefix")
    with pytest.raises(HomeUnreachable, match="s3://nowhere/prefix"):
        objects.get("a", 10)
    with pytest.raises(HomeUnreachable):
        objects.put("a", b"")


def test_an_address_of_no_store_is_refused_without_its_password() -> None:
    cluster_packages()
    with pytest.raises(ConfigError) as found:
        NetworkObjects("ftp://me:secret@host/bucket")
    assert "secret" not in str(found.value)
