"""Put on PYTHONPATH of a server under test: on SIGUSR1 a process writes down which modules it has imported."""

import os
import signal
import sys


def _write(*_: object) -> None:
    with open(os.path.join(os.environ["SURETY_TEST_MODULES"], f"{os.getpid()}.txt"), "w") as out:
        out.write("\n".join(sorted(sys.modules)))


if "SURETY_TEST_MODULES" in os.environ:
    signal.signal(signal.SIGUSR1, _write)
