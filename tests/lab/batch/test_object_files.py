"""Stores of rows are opened as those of a home are: the same addresses, waits and environment."""

from __future__ import annotations

import pytest

from ml_core.base.errors import DataError
from ml_core.lab.batch.object_files import ObjectFolder, object_address
from tests.object_server import Bucketeer
from tests.oracles import cluster_packages


def test_a_store_without_tls_in_the_same_house_needs_no_further_word(
    bucketeer: Bucketeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address says ``http://``, and that is enough for a home too."""
    cluster_packages()
    for name, value in bucketeer.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    folder = ObjectFolder(bucketeer.new_bucket())
    assert folder.create("a.parquet", b"1")
    assert not folder.create("a.parquet", b"2")
    assert folder.read("a.parquet") == b"1"


@pytest.mark.parametrize("address", ["s3://", "ftp://bucket/rows"])
def test_an_address_of_no_store_is_refused(address: str) -> None:
    with pytest.raises(DataError):
        object_address(address)
