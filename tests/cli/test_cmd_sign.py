"""Signing a model for other people's tools and checking it, as a person types it."""

from __future__ import annotations

import pytest

from tests.cli.typing_surety import command_line
from tests.oracles import oracle
from tests.security.mutations import FILES
from tests.serve.answering.stored import Home


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def test_a_model_signed_by_its_tag_is_verified_here_and_by_the_tool(run, home, tmp_path):
    told = run("sign", home.v1)
    assert (told.code, told.result["files"]) == (0, len(FILES))
    signature = tmp_path / told.result["signature"]
    assert signature.name == home.v1.replace(":", "-") + ".sig"
    assert run("verify", home.v1).result["verified"] is True
    folder = home.file(home.v1).parent
    read = oracle(
        "model_signing", "verify", "key", folder, "--signature", signature, "--public_key",
        tmp_path / told.result["public_key"],
    )  # fmt: skip
    assert read.returncode == 0, read.stderr


def test_a_changed_model_is_a_sound_no(run, home, tmp_path):
    folder = str(home.file(home.v1).parent)
    assert run("sign", folder, "--signature", "m.sig").code == 0
    home.file(home.v1).write_bytes(b"other")
    told = run("verify", folder, "--signature", "m.sig")
    assert (told.code, told.out) == (3, "")
    assert "model.onnx was changed" in told.err.replace(":", "")


@pytest.mark.parametrize("words", [("sign", "no_model"), ("verify", "no_model"), ("sign", "gone:v1-00000000")])
def test_what_is_no_model_is_one_line(run, words):
    told = run(*words)
    assert (told.code, told.err.count("\n")) == (1, 1)
