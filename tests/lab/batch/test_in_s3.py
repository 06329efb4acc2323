"""Folders in a real S3 server, by the commands, with a pool; killed, they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ml_core.lab.batch import object_files
from ml_core.lab.batch.object_files import ObjectFolder
from ml_core.lab.past_answers.folder_scoring import score_folder
from tests.lab.past_answers.scoring import loaded
from tests.lab.past_answers.test_folder_scoring import content, tables_in
from tests.oracles import ROOT, cluster_packages
from tests.s3_server import s3_server
from tests.serve.answering.stored import Home
from tests.toy_models import NAME

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch):
    """An S3 server with a bucket, named in the environment."""
    cluster_packages()
    object_files._bucket.cache_clear()
    with s3_server("ward") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield variables
    object_files._bucket.cache_clear()


@pytest.fixture
def begun(tmp_path, server):
    """Begins a command as a process of its own, in a home whose model is promoted."""
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    places = {
        "SURETY_HOME": str(tmp_path / "home"),
        "SURETY_MODEL_NAME": NAME,
        "BENTOML_HOME": str(tmp_path / "bentoml"),
    }
    paths = os.pathsep.join([str(ROOT), str(cluster_packages())])
    environment = {**os.environ, **places, "PYTHONPATH": paths, "BENTOML_DO_NOT_TRACK": "true"}

    def begin(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "ml_core.cli.main", *arguments], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return begin


def in_bucket(name):
    folder = ObjectFolder(f"s3://ward/{name}")
    return {below: folder.read(below) for below, _ in folder.files()}


def test_a_pool_reads_and_writes_a_bucket_and_goes_on_after_a_kill(tmp_path, begun):
    local = tables_in(tmp_path / "in")
    for name, place in zip(local.names, local.places, strict=True):
        ObjectFolder("s3://ward/in").put(name, place)
    score_folder(local, tmp_path / "out", loaded())
    victim = begun("score", "s3://ward/in", "s3://ward/out", "--processes", "2")
    give_up = time.monotonic() + 120
    while not any(name.startswith("part-") for name in in_bucket("out")) and victim.poll() is None:
        assert time.monotonic() < give_up
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    again = begun("score", "s3://ward/in", "s3://ward/out", "--processes", "2", "--output", "json")
    out, err = again.communicate(timeout=120)
    if again.returncode:  # the victim was through before it was killed
        assert "--force" in err
    else:
        assert (json.loads(out)["rows"], json.loads(out)["out"]) == (351, "s3://ward/out")
    near = content(tmp_path / "out")
    far = in_bucket("out")
    assert len(far) == len(near)
    # an object's digest is its entity tag and not its sha256, so plan, input_hash and names differ
    assert [json.loads(each["_summary.json"])["rows"] for each in (near, far)] == [351, 351]


def test_drift_and_features_read_a_bucket(tmp_path, begun, server):
    from ml_core.lab.data.cohort import make_cohort

    for name, seed in (("then", 1), ("now", 2)):
        make_cohort(300, seed)[0].to_parquet(tmp_path / f"{name}.parquet", index=False)
        ObjectFolder(f"s3://ward/{name}").put("1.parquet", tmp_path / f"{name}.parquet")
    options = ("--feature-version", "v1", "--output", "json")
    told = [
        json.loads(begun("drift", "check", "--reference", a, "--current", b, *options).communicate(timeout=120)[0])
        for a, b in (("then.parquet", "now.parquet"), ("s3://ward/then", "s3://ward/now"))
    ]
    assert told[0] == told[1]
    config = str(ROOT / "configs" / "readmission_v1.yaml")
    found = [
        json.loads(begun("features", "run", "--config", config, "--data", data).communicate(timeout=120)[0])
        for data in ("now.parquet", "s3://ward/now")
    ]
    assert found[0] == found[1]
    assert found[0]["version"] == 0
