"""M1: the database is restarted, killed and gone: callers notice nothing in standard mode, and no answer is missing or double."""

from __future__ import annotations

import time

from ml_core.serve.rollout import changes
from tests.cluster.forms import Form
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import answered, failed

SHIPPED_WITHIN_S = 10.0
STRICT_BACK_WITHIN_S = 5.0


def test_m1_in_standard_mode_nobody_notices_and_no_answer_is_missing_or_double(service: Running, form: Form) -> None:
    database, shipped_s = service.cluster.database, {}
    with service.load(form.rate) as load:
        for fault, how, gone_s in (
            ("restarted", "fast", 0.0),
            ("killed", "immediate", 0.0),
            ("gone", "immediate", form.gone_s),
        ):
            time.sleep(2)
            database.stop(how)
            time.sleep(gone_s)
            if gone_s:
                said = [machine.served.status() for machine in service.machines]
            database.start()
            shipped_s[fault] = service.shipped()
        time.sleep(2)
    service.wholly_shipped()
    rows = service.rows_of(s.request_id for s in load.seen)
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    assert all(any("the home has not been reached for" in note for note in status["notes"]) for status in said)
    assert set(rows.values()) == {1}
    assert max(shipped_s.values()) <= SHIPPED_WITHIN_S * form.patience, shipped_s
    record(
        "M1 database restarted, killed, gone (standard)",
        "0 failed; all is shipped within 10 s of its return; 0 answers missing in the log, 0 double",
        {"rate": form.rate, "gone_s": form.gone_s, "requests": len(load.seen), "failed": 0, "missing": 0, "double": 0,
         **{f"shipped_after_{fault}_s": round(seconds, 1) for fault, seconds in shipped_s.items()}},
    )  # fmt: skip


def test_m1_in_strict_mode_no_answer_is_given_that_is_not_stored(service: Running, form: Form) -> None:
    database = service.cluster.database
    service.obeyed(service.change(changes.flags({"log_mode": "strict"})))
    with service.load(form.rate) as load:
        time.sleep(2)
        gone_at = time.monotonic()
        database.stop("immediate")
        time.sleep(form.gone_s)
        database.start()
        back_at = time.monotonic()
        time.sleep(STRICT_BACK_WITHIN_S + 3)
    service.wholly_shipped()
    rows = service.rows_of(s.request_id for s in answered(load.seen))
    refused = failed(load.seen)
    again_s = max(s.ended_s for s in refused) - back_at
    assert {s.status for s in refused} == {503}
    assert min(s.ended_s for s in refused) >= gone_at
    assert set(rows.values()) == {1}
    assert again_s <= STRICT_BACK_WITHIN_S * form.patience
    record(
        "M1 database gone (strict)",
        "503 and nothing else, only while it is gone; 0 answers that were given are missing, 0 double",
        {"rate": form.rate, "gone_s": form.gone_s, "requests": len(load.seen), "refused": len(refused), "missing": 0,
         "double": 0, "last_503_after_return_s": round(again_s, 1)},
    )  # fmt: skip
