"""A person is erased from log, labels and ledger, and nobody else is."""

from __future__ import annotations

from pathlib import Path

from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.forget import forget
from ml_core.lab.watching.live_performance import realised
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.logged_answers import ErasedAnswer
from ml_core.serve.log.pseudonyms import Pseudonyms
from tests.lab.watching.ward import Ward, patients


def test_nothing_of_a_person_is_left_anywhere_and_all_of_the_others_is(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    rows = patients(200, seed=3)
    rows["patient_id"] = [f"patient-{i % 50}" for i in range(len(rows))]
    answers = ward.answer(rows)
    ward.pass_days(31)
    ward.look()
    ward.close()
    settings = ward.home.settings
    hidden = Pseudonyms(settings.subject_key).all_of("patient-7")
    his = [a.request_id for a, name in zip(answers, rows["patient_id"], strict=True) if name == "patient-7"]
    before = realised(settings)
    done = forget(settings, hidden)
    assert (done.log.answers, done.labels, done.matured, done.log.left) == (4, 4, 4, {})
    assert all(isinstance(ward.log.find(i), ErasedAnswer) for i in his)
    after = realised(settings)
    assert len(after.rows) == len(before.rows) - 4
    assert after.detectors == before.detectors
    assert LabelStore(settings.labels, ward.log.known).current([id_bytes(i) for i in his]) == {}
    assert all(report.problem == "" for report in verify_log(settings).files)
    files = [p for p in settings.home.rglob("*") if p.is_file() and p != settings.subject_key]
    assert not [p.name for p in files if any(raw in p.read_bytes() for raw in hidden)]
    again = forget(settings, hidden)
    assert (again.log.answers, again.labels, again.matured) == (0, 0, 0)
