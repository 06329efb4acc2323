"""What the image must do, tried on a running container of it, with next to no rights.

    python -m tests.container.check surety:TAG

The engine is in CONTAINER_ENGINE (``docker``, ``podman --runtime runc``), more options of its `run` in CONTAINER_OPTIONS.
The model that must be in the image is the promoted one of SURETY_HOME and BENTOML_HOME. deploy/container/test.sh sets
all of it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ml_core.base.settings import load_settings
from ml_core.serve.http.api_keys import KeyRole, add_key
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.trust.keys import trusted_keys
from tests.e2e.workplace import free_port

HOME = "/var/lib/surety"
WORKERS = 2
MOST_IMAGE_MB, MOST_PYTHON_MB = 500, 300
MOST_CLUSTER_MB = 40
"""What the packages of a cluster may add (EXTRAS=cluster)."""
STOPS_WITHIN_S = 30.0
READY_WITHIN_S = 60.0
PREDICTIONS = 1_000
FORBIDDEN = {"mlflow", "mlflow-skinny", "xgboost", "xgboost-cpu", "pyarrow", "pandas", "scikit-learn", "scipy", "uv"}
BINDINGS = {"nvidia-ml-py"}
"""BentoML asks for it: a file of Python that would look for CUDA, which is not there."""
ROLES: dict[str, KeyRole] = {"caller": "predict", "scraper": "metrics", "keeper": "admin"}


class Container:
    """A container of the image under a name of its own, its volume, and keys to ask it with.

    Parameters
    ----------
    image : its name
    folder : for the file of keys

    Attributes
    ----------
    secrets : settings for what lies beside its home and is needed to read it
    """

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.engine = shlex.split(os.environ["CONTAINER_ENGINE"])
        self.options = shlex.split(os.environ.get("CONTAINER_OPTIONS", ""))
        self.name = self.volume = f"surety-check-{secrets.token_hex(4)}"
        self.port = free_port()
        self.keys = {name: add_key(folder / "keys.json", name, [role]) for name, role in ROLES.items()}
        self.secrets: dict[str, str] = {}
        self._keys_folder = folder
        folder.chmod(0o755)

    def do(self, *arguments: str, check: bool = True) -> str:
        """Run the engine; what it says."""
        done = subprocess.run([*self.engine, *arguments], capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    @cached_property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Start it, or start it again, with the rights a service should have; seconds until it is ready."""
        self.do("rm", "--force", self.name, check=False)
        began = time.monotonic()
        self.do(
            "run", "--detach", "--name", self.name, "--read-only", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--tmpfs", "/tmp", "--volume", f"{self.volume}:{HOME}",
            "--volume", f"{self._keys_folder}:/run/keys:ro", "--env", "SURETY_API_KEYS_FILE=/run/keys/keys.json",
            "--env", f"SURETY_WORKERS={WORKERS}", "--env", f"PORT={self.port}", *self.network, *self.options, self.image,
        )  # fmt: skip
        while not self.is_ready():
            assert self.facts("{{.State.Running}}") == "true", "it ended by itself"
            assert time.monotonic() - began < READY_WITHIN_S, f"not ready within {READY_WITHIN_S:g} s"
            time.sleep(0.1)
        return time.monotonic() - began

    @property
    def network(self) -> list[str]:
        """Docker leads a port in; Podman may lack what its bridge needs, and so has the machine's own network."""
        if self.engine[0] == "docker":
            return ["--publish", f"127.0.0.1:{self.port}:{self.port}"]
        return ["--network", "host", "--env", "BENTOML_HOST=127.0.0.1"]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def facts(self, template: str) -> str:
        return self.do("inspect", "--format", template, self.name)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside, beside the service."""
        return self.do("exec", self.name, *command, check=check)

    def python(self, code: str) -> Any:
        """What a program inside writes, which is JSON."""
        return json.loads(self.run("python", "-c", code))

    def ask(self, path: str, body: object = None, *, who: str = "keeper") -> httpx.Response:
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {self.keys[who]}"} if who else {}
        return httpx.request(method, self.address + path, json=body, headers=headers, timeout=30)

    def said(self) -> str:
        """Everything it has written."""
        done = subprocess.run([*self.engine, "logs", self.name], capture_output=True, text=True, timeout=300)
        return done.stdout + done.stderr

    def remove(self) -> None:
        self.do("rm", "--force", self.name, check=False)
        self.do("volume", "rm", self.volume, check=False)


@dataclass
class Load:
    """Callers that ask again and again, each on a connection of its own, until they are told to stop.

    Attributes
    ----------
    total : requests after which they stop by themselves; 0: never
    answered : ids of the answers
    refused : everything else, by status or by what broke
    """

    container: Container
    records: Sequence[dict[str, Any]]
    total: int = 0
    callers: int = 8
    answered: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        share = self.total // self.callers
        self._threads = [threading.Thread(target=self._call, args=(share,), daemon=True) for _ in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None or not self.total:
            self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _call(self, share: int) -> None:
        headers = {"Authorization": f"Bearer {self.container.keys['caller']}"}
        sent = 0
        with httpx.Client(base_url=self.container.address, headers=headers, timeout=30) as client:
            while not self.stopping.is_set() and (not share or sent < share):
                sent += 1
                try:
                    reply = client.post("/predict", json={"features": self.records[sent % len(self.records)]})
                except httpx.HTTPError as error:
                    self.refused[type(error).__name__] += 1
                    time.sleep(0.02)
                    continue
                if reply.status_code == 200:
                    self.answered.append(reply.json()["request_id"])
                else:
                    self.refused[str(reply.status_code)] += 1


class Story:
    """The checks, in the order in which they happen to one container."""

    def __init__(self, container: Container) -> None:
        self.container = container
        settings = load_settings()
        loader = ModelLoader(settings)
        self.model_name = settings.model_name
        self.tag = loader.served_tag()
        self.bundle: Bundle = loader.verified(self.tag).predictor.bundle
        self.records = [entry["record"] for entry in self.bundle.golden]
        self.given: list[str] = []

    @property
    def checks(self) -> list[Callable[[], str]]:
        return [
            self.starts_on_an_empty_volume,
            self.leaves_its_model_on_the_volume,
            self.is_small,
            self.holds_only_what_answers,
            self.lists_what_it_holds,
            self.trusts_the_keys_it_was_built_with,
            self.holds_bytecode,
            self.names_no_index,
            self.is_nobody_special,
            self.writes_to_its_volume_alone,
            self.answers_as_the_model_did_when_it_was_accepted,
            self.says_where_an_answer_comes_from,
            self.asks_for_a_key,
            self.counts_what_it_answers,
            self.workers_are_seen_from_another_container,
            self.replaces_a_worker_that_dies,
            self.stops_under_load_and_loses_nothing,
            self.goes_on_where_it_stopped,
            self.log_holds_every_answer_and_its_chain_is_whole,
        ]

    def starts_on_an_empty_volume(self) -> str:
        self.container.do("volume", "create", self.container.volume)
        return f"ready after {self.container.start():.1f} s"

    def leaves_its_model_on_the_volume(self) -> str:
        name, _, version = self.tag.partition(":")
        self.container.run("test", "-f", f"{HOME}/models/{name}/{version}/{BUNDLE_IN_BENTO_MODEL}/manifest.json")
        return self.tag

    def is_small(self) -> str:
        total = int(self.container.do("image", "inspect", "--format", "{{.Size}}", self.container.image))
        kilobytes = int(self.container.run("du", "-sk", "/app/.venv").split()[0])
        image_mb, python_mb = total / 1e6, kilobytes * 1.024e-3
        extra = self.container.run(
            "sh", "-c", "test -d /app/.venv/lib/python3*/site-packages/obstore && echo yes || true"
        )
        assert image_mb < MOST_IMAGE_MB, image_mb
        assert python_mb < MOST_PYTHON_MB + (MOST_CLUSTER_MB if extra else 0), python_mb
        return f"{image_mb:.0f} MB, of which Python packages {python_mb:.0f} MB on disk"

    def holds_only_what_answers(self) -> str:
        found = self.container.python(
            "import json, pathlib, re; print(json.dumps([re.sub(r'[-_.]+', '-', p.name.rsplit('-', 2)[0]).lower() "
            "for top in ('/app', '/usr', '/opt', '/home') for p in pathlib.Path(top).rglob('*.dist-info')]))"
        )
        assert {"bentoml", "onnxruntime", "numpy"} <= set(found)
        strangers = {name for name in found if name in FORBIDDEN or name.startswith(("nvidia", "cuda", "cupy"))}
        assert strangers <= BINDINGS, strangers
        tools = self.container.run("sh", "-c", "command -v gcc git uv curl || true")
        assert tools == ""
        return f"{len(found)} packages, no compiler"

    def lists_what_it_holds(self) -> str:
        """The bill of materials against the files of the running container and dpkg's own list."""
        found = self.container.python(
            "import email, json, os; print(json.dumps([dict(email.message_from_file(open(f'{top}/{d}/METADATA')).items()) "
            "for start in ('/app', '/usr', '/opt', '/home', '/var') for top, folders, _ in os.walk(start) "
            "for d in folders if d.endswith('.dist-info')]))"
        )
        python = {re.sub(r"[-_.]+", "-", f["Name"]).lower() + " " + f["Version"] for f in found}
        debian = self.container.run("dpkg-query", "--show", "--showformat", "${Package} ${Version}\n").splitlines()
        bill = json.loads(self.container.run("cat", "/usr/share/surety/sbom.cdx.json"))
        listed: dict[str, set[str]] = {}
        for entry in bill["components"]:
            kind = entry["purl"].removeprefix("pkg:").partition("/")[0]
            listed.setdefault(kind, set()).add(f"{entry['name']} {entry['version']}")
        assert listed["pypi"] == python, listed["pypi"] ^ python
        assert listed["deb"] == set(debian), listed["deb"] ^ set(debian)
        assert len(listed["generic"]) == 1
        return f"{len(python)} Python distributions, {len(debian)} packages of Debian"

    def trusts_the_keys_it_was_built_with(self) -> str:
        described = self.container.run("cat", "/home/bentoml/bento/bento.yaml")
        assert self.bundle.model_hash in described
        own = {key.key for key in trusted_keys(load_settings())}
        assert own
        assert all(key in described for key in own)
        assert "PRIVATE KEY" not in self.container.run("sh", "-c", "grep -rl 'PRIVATE KEY' /home/bentoml || true")
        return f"{len(own)} public keys"

    def holds_bytecode(self) -> str:
        found = self.container.python(
            "import importlib.util as u, json, pathlib; print(json.dumps({str(p): pathlib.Path(u.cache_from_source(str(p)))"
            ".is_file() for top in ('/app/.venv/lib', '/home/bentoml/bento/src') for p in pathlib.Path(top).rglob('*.py')}))"
        )
        assert [path for path, is_compiled in found.items() if not is_compiled] == []
        assert any(path.endswith("/src/service.py") for path in found)
        return f"of {len(found):,} files"

    def names_no_index(self) -> str:
        kept = self.container.run(
            "sh", "-c", "grep -rlEi -e '--(extra-)?index-url|--find-links|/simple' /home/bentoml/bento || true"
        )
        assert kept == ""
        settings = self.container.run(
            "sh", "-c", "ls /etc/pip.conf /etc/uv/uv.toml /root/.config /root/.cache 2>/dev/null || true"
        )
        assert settings == ""
        names = self.container.facts("{{range .Config.Env}}{{println .}}{{end}}")
        assert not [line for line in names.splitlines() if line.startswith(("PIP_", "UV_", "SSL_", "HTTP", "http"))]
        return ""

    def is_nobody_special(self) -> str:
        status = self.container.python(
            "import json, pathlib; print(json.dumps([p.read_text() for p in pathlib.Path('/proc').glob('[0-9]*/status')]))"
        )
        assert len(status) > WORKERS
        for process in status:
            facts = dict(line.split(":\t", 1) for line in process.splitlines() if ":\t" in line)
            assert "0" not in facts["Uid"].split()
            assert "0" not in facts["Gid"].split()
            assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
            assert facts["NoNewPrivs"] == "1"
        return f"user {self.container.run('id', '-u')}, no capability"

    def writes_to_its_volume_alone(self) -> str:
        places = ["/", "/home/bentoml/bento", "/home/bentoml/bento/models", "/app/.venv", "/etc", "/usr/bin"]
        for place in places:
            written = self.container.run("sh", "-c", f"touch {place}/x 2>&1 && echo yes || true")
            assert written.endswith(("Read-only file system", "Permission denied")), (place, written)
        owned = self.container.run("sh", "-c", f"find / -xdev -user 1034 -not -path {HOME} 2>/dev/null || true")
        assert owned == "", owned
        self.container.run("sh", "-c", f"touch {HOME}/x && rm {HOME}/x")
        return f"{len(places)} other places refused"

    def answers_as_the_model_did_when_it_was_accepted(self) -> str:
        entries = self.bundle.golden
        reply = self.container.ask("/predict_batch", {"records": self.records}, who="caller")
        assert reply.status_code == 200, reply.text
        answers = reply.json()["predictions"]
        assert len(answers) == len(entries) > 0
        answers.append(self._answer(self.records[-1]))
        classes = self.bundle.manifest.classes
        for entry, answer in zip([*entries, entries[-1]], answers, strict=True):
            assert not answer["fallback_used"]
            assert answer["prediction"] == classes[entry["prediction"]]
            assert answer["probability"] == entry["proba"][1]
            assert answer["confidence"] == entry["proba"][entry["prediction"]]
            assert list(answer["p_values"].values()) == entry["p_values"]
            assert answer["prediction_set"] == [k for k, member in zip(classes, entry["set"], strict=True) if member]
        self.given += [answer["request_id"] for answer in answers]
        return f"{len(entries)} records, bit for bit"

    def says_where_an_answer_comes_from(self) -> str:
        lineage = self._answer(self.records[0])["lineage"]
        assert lineage["model_hash"] == self.bundle.model_hash
        assert lineage["model_name"] == self.model_name
        assert lineage["bento"] == self.container.image
        assert lineage["slot"] == "champion"
        return f"{lineage['bento']}, model {lineage['model_hash'][:8]}"

    def asks_for_a_key(self) -> str:
        assert self.container.ask("/predict", {"features": self.records[0]}, who="").status_code == 401
        assert self.container.ask("/metrics", who="").status_code == 401
        assert self.container.ask("/metrics", who="caller").status_code == 403
        assert self.container.ask("/readyz", who="").status_code == 200
        return ""

    def counts_what_it_answers(self) -> str:
        before = self._count("surety_answers_total")
        with Load(self.container, self.records, total=PREDICTIONS) as load:
            pass
        self.given += load.answered
        assert load.refused == {}
        assert len(set(load.answered)) == PREDICTIONS
        assert self._count("surety_answers_total") - before == PREDICTIONS
        return f"{PREDICTIONS:,} predictions"

    def workers_are_seen_from_another_container(self) -> str:
        """The monitor runs in a container of its own, where process ids mean nothing."""
        seen = self.container.do(
            "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--volume", f"{self.container.volume}:{HOME}",
            *self.container.options, "--workdir", "/home/bentoml/bento/src", "--entrypoint", "python",
            self.container.image, "-c",
            "from ml_core.serve.rollout.worker_reports import beating, read_reports; from ml_core.base.settings import load_settings; "
            "from ml_core.serve.home.homes import open_home; settings = load_settings(); "
            "print(len(beating(read_reports(open_home(settings).heartbeats(settings.model_name)))))",
        )  # fmt: skip
        assert int(seen) == WORKERS
        return f"{seen} workers"

    def replaces_a_worker_that_dies(self) -> str:
        before = self._pids()
        assert len(before) == WORKERS
        self.container.run("sh", "-c", f"kill -KILL {min(before)}")
        took = self._until(lambda: len(now := self._pids()) == WORKERS and min(before) not in now)
        self._answer(self.records[0])
        return f"whole again after {took:.1f} s"

    def stops_under_load_and_loses_nothing(self) -> str:
        with Load(self.container, self.records) as load:
            self._until(lambda: len(load.answered) >= 500)
            began = time.monotonic()
            self.container.do("stop", "--time", "40", self.container.name)
            took = time.monotonic() - began
        self.given += load.answered
        self._check_log()
        assert took < STOPS_WITHIN_S
        assert self.container.facts("{{.State.ExitCode}}") == "0"
        said = self.container.said()
        for word in ("Traceback", "elemetry"):
            assert word not in said, said
        refused = load.refused.pop("ConnectError", 0)
        return f"{took:.1f} s; {len(load.answered):,} answered, {load.refused.total()} cut off, {refused} refused"

    def goes_on_where_it_stopped(self) -> str:
        took = self.container.start()
        self._answer(self.records[0])
        assert self.container.ask("/status").json()["rollout"]["generation"] == 1
        return f"ready after {took:.1f} s"

    def log_holds_every_answer_and_its_chain_is_whole(self) -> str:
        self.container.do("stop", "--time", "40", self.container.name)
        return f"{self._check_log():,} answers"

    def _until(self, condition: Callable[[], bool]) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < READY_WITHIN_S
            time.sleep(0.1)
        return time.monotonic() - began

    def _answer(self, record: dict[str, Any]) -> dict[str, Any]:
        reply = self.container.ask("/predict", {"features": record}, who="caller")
        assert reply.status_code == 200, reply.text
        self.given.append(reply.json()["request_id"])
        return reply.json()  # type: ignore[no-any-return]

    def _count(self, name: str) -> int:
        text = self.container.ask("/metrics", who="scraper").text
        families = text_string_to_metric_families(text)
        return int(sum(sample.value for family in families for sample in family.samples if sample.name == name))

    def _pids(self) -> set[int]:
        """Process ids inside, of workers that report."""
        return {p["pid"] for p in self.container.ask("/status").json()["workers"]["processes"] if p["alive"]}

    def _check_log(self) -> int:
        """Compare the log of the stopped container with all answers that it gave; how many these are."""
        with TemporaryDirectory() as folder:
            self.container.do("cp", f"{self.container.name}:{HOME}/.", folder)
            home = {**os.environ, "SURETY_HOME": folder, **self.container.secrets}
            verify = [sys.executable, "-m", "ml_core.cli.main", "log", "verify", "--model", self.model_name]
            done = subprocess.run(verify, env=home, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            log = PredictionLog(Path(folder) / "log" / self.model_name)
            stored = Counter(answer.request_id for answer in log.rows())
        assert [request_id for request_id in self.given if stored[request_id] != 1] == []
        return len(self.given)


def tell(story: Story) -> int:
    """Go through the checks, say what comes of each, leave nothing behind; the exit status."""
    passed = 0
    try:
        for check in story.checks:
            name = check.__name__.replace("_", " ")
            try:
                figure = check()
            except Exception:  # noqa: BLE001 - whatever it is, it is told, and nothing stays behind
                sys.stdout.write(f"{story.container.said()[-4_000:]}\n{traceback.format_exc()}\nFAILED  {name}\n")
                break
            passed += 1
            sys.stdout.write(f"ok  {name}{': ' if figure else ''}{figure}\n")
            sys.stdout.flush()
    finally:
        story.container.remove()
    failed = len(story.checks) - passed
    sys.stdout.write(f"{passed} passed, {failed} failed or not reached\n")
    return 1 if failed else 0


def main(image: str) -> int:
    """Try everything, say what came of it; the exit status."""
    with TemporaryDirectory() as folder:
        return tell(Story(Container(image, Path(folder))))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
