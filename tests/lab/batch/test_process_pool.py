"""A pool gives what one process gives, passes errors on, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_core.base.errors import DataError, SuretyError, WorkersLost
from ml_core.lab.batch.engines import InProcess, engine_of, in_order
from ml_core.lab.batch.process_pool import ProcessPool
from ml_core.lab.batch.row_groups import Piece

ROOT = Path(__file__).resolve().parents[3]
PIECES = tuple(Piece(number, 0, (number,), number, 1) for number in range(6))


def told(shared, piece):
    return shared, piece.number, os.getpid()


def refusing(shared, piece):
    if piece.number == 3:
        raise DataError("rows.parquet", "has no such rows")
    return piece.number


def dying(shared, piece):
    if piece.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece.number


def waiting(shared, piece):
    Path(shared, f"{os.getpid()}.begun").touch()
    time.sleep(600)


def test_each_piece_is_worked_on_once_and_elsewhere():
    found = list(ProcessPool(2).run(told, "given", PIECES, "test"))
    assert sorted(number for _, number, _ in found) == [0, 1, 2, 3, 4, 5]
    assert {shared for shared, _, _ in found} == {"given"}
    processes = {process for _, _, process in found}
    assert os.getpid() not in processes
    assert len(processes) <= 2


@pytest.mark.parametrize("engine", [InProcess(), ProcessPool(2)], ids=["in process", "pool"])
def test_results_come_in_the_order_of_the_pieces_where_that_is_wanted(engine):
    assert [number for _, number, _ in in_order(engine, told, "given", PIECES, "test")] == [0, 1, 2, 3, 4, 5]


def test_a_refusal_comes_back_as_it_was():
    with pytest.raises(DataError) as caught:
        list(ProcessPool(2).run(refusing, None, PIECES, "test"))
    assert (str(caught.value), caught.value.what) == ("rows.parquet: has no such rows", "rows.parquet")


def test_a_process_that_is_killed_is_told_with_what_to_do():
    with pytest.raises(WorkersLost, match="the same command goes on"):
        list(ProcessPool(2).run(dying, None, PIECES, "test"))


def test_nothing_is_started_for_no_work():
    assert list(ProcessPool(2).run(told, None, (), "test")) == []
    assert isinstance(engine_of(1, None), InProcess)
    assert isinstance(engine_of(2, None), ProcessPool)


def test_every_error_of_ours_travels_between_processes():
    import pickle

    kinds = [SuretyError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in kinds:
        error = kind.__new__(kind)
        error.args, error.detail = ("words",), {"a": 1}
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), back.args, back.detail) == (kind, ("words",), {"a": 1})


_VICTIM = """
import sys
from ml_core.lab.batch.process_pool import ProcessPool
from tests.lab.batch.test_process_pool import PIECES, waiting
if __name__ == "__main__":
    list(ProcessPool(2).run(waiting, sys.argv[1], PIECES, "test"))
"""


def test_processes_end_with_the_one_that_wanted_them_however_it_ends(tmp_path):
    (tmp_path / "victim.py").write_text(_VICTIM)
    victim = subprocess.Popen(
        [sys.executable, tmp_path / "victim.py", tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
    victim.kill()
    victim.wait()
    workers = [int(path.stem) for path in tmp_path.glob("*.begun")]
    until(lambda: not any(map(is_alive, workers)))


def until(holds):
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
