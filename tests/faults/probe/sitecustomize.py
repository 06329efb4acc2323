"""Breaks the model of a server under test, by the rules in the file that SURETY_TEST_FAULT names (put on PYTHONPATH).

The file holds {"quick": bool, "rules": [...]}. Without the file or without rules, models run unchanged. A rule:

    do            raise, sleep, hang, nan, inf, negative, sum, shape, empty or exit
    ms            how long sleep takes (it answers afterwards); hang sleeps and then raises
    model_hash    only models whose hash begins with this
    column, above only rows whose feature in that column is above the number (raise and sleep: calls with such a row)
    every         only every n-th call that fits the rest of the rule
    says          the text of the exception of raise

"quick": false is read once, when the runner's module is imported, and sends the model to the pool from the start.

Threads carry their names in /proc/PID/task/*/comm as well, so that a test can tell whose they are.
"""

import importlib.machinery
import json
import os
import sys
import threading
import time

_RUNNER = "ml_core.serve.running.runner"
_LOOK_EVERY_S = 0.02


class _Faults:
    """The rules of the file, read again after each change of the file."""

    def __init__(self, path):
        self._path = path
        self._looking = threading.Lock()
        self._looked = 0.0
        self._stamp = None
        self._calls = {}
        self.quick = True
        self.rules = ()
        self.look()

    def look(self):
        with self._looking:  # other callers wait for the new rules and do not use the old ones
            self._look()

    def _look(self):
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError):
            return
        self._stamp = stamp
        self._calls = {}
        self.quick = content.get("quick", True)
        self.rules = tuple(content.get("rules", ()))

    def of(self, model_hash, features):
        """The first rule that fits this call, and the rows it applies to."""
        for number, rule in enumerate(self.rules):
            if not model_hash.startswith(rule.get("model_hash", "")):
                continue
            rows = features[:, rule["column"]] > rule["above"] if "column" in rule else features[:, 0] == features[:, 0]
            if "column" not in rule:
                rows[:] = True
            if not rows.any():
                continue
            self._calls[number] = self._calls.get(number, 0) + 1
            if self._calls[number] % rule.get("every", 1) == 0:
                return rule, rows
        return None, None


def _broken(rule, rows, honest):
    """The output of the model under that rule; ``honest`` computes the output without it."""
    import numpy as np

    do = rule["do"]
    if do == "exit":
        os._exit(137)
    if do in {"sleep", "hang"}:
        time.sleep(rule["ms"] / 1000)
    if do in {"raise", "hang"}:
        raise RuntimeError(rule.get("says", "the model was told to fail"))
    proba = np.array(honest())
    if do == "nan":
        proba[rows] = np.nan
    elif do == "inf":
        proba[rows, 0] = np.inf
    elif do == "negative":
        proba[rows] = (-0.5, 1.5)
    elif do == "sum":
        proba[rows] = (0.7, 0.7)
    elif do == "shape":
        return proba[:, :1]
    elif do == "empty":
        return proba[:0]
    return proba


def _break(module):
    faults = _Faults(os.environ["SURETY_TEST_FAULT"])
    runner = module.ConformalRunner
    init, proba = runner.__init__, runner.proba

    def remembering(self, model, *args, **named):
        init(self, model, *args, **named)
        self.told_hash = model.model_hash

    def faulty(self, features):
        faults.look()
        if faults.rules:
            rule, rows = faults.of(self.told_hash, features)
            if rule is not None:
                return _broken(rule, rows, lambda: proba(self, features))
        return proba(self, features)

    runner.__init__, runner.proba = remembering, faulty
    if not faults.quick:
        runner.is_quick = False


class _Finder:
    """Breaks the runner's module when it is imported; imports nothing by itself."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != _RUNNER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executing(module):
            execute(module)
            _break(module)

        spec.loader.exec_module = executing
        return spec


def _name_threads():
    start = threading.Thread.start

    def started(self):
        start(self)
        try:
            with open(f"/proc/self/task/{self.native_id}/comm", "w", encoding="utf-8") as name:
                name.write(self.name)
        except OSError:  # it has ended already
            pass

    threading.Thread.start = started


if "SURETY_TEST_FAULT" in os.environ:
    _name_threads()
    sys.meta_path.insert(0, _Finder)
