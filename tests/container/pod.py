"""The pod of the Helm chart's Deployment, run by Podman from what helm renders, with the image of a release.

    python -m tests.container.pod surety:TAG

It differs from the rendered pod in what a machine without a cluster lacks: the Secret is a folder, the port leads to a free
one of this machine, and there is neither database nor object store, so that its home is the volume alone. Podman passes over
probes and `preStop`; the checks ask the paths of the probes themselves. Settings of the engine are as in check.py.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import yaml

from tests.container.check import READY_WITHIN_S, Container, Story, tell
from tests.deploy.charts import EXAMPLE, Manifest, rendered, the

SHARED = {"SURETY_DATABASE", "SURETY_OBJECTS"}
"""What only a cluster has."""
WORKERS = 2


def rendered_pod(image: str) -> Manifest:
    """The specification of the pods of the service that helm makes for that image."""
    repository, _, tag = image.rpartition(":")
    given = json.dumps({"repository": f"localhost/{repository}", "tag": tag, "pullPolicy": "Never"})
    made = rendered(EXAMPLE, f"image={given}", f"service.workers={WORKERS}")
    spec: Manifest = copy.deepcopy(the(made, "Deployment", "ward-surety")["spec"]["template"]["spec"])
    return spec


class Pod(Container):
    """The container of a pod that Podman has made; its volumes have names of their own."""

    def __init__(self, image: str, folder: Path) -> None:
        super().__init__(image, folder)
        self.pod = self.name
        self.name, self.volume = f"{self.pod}-surety", f"{self.pod}-home"
        self.spec = rendered_pod(image)
        self.manifest = folder / "pod.yaml"
        secret = self._secret(folder)
        self.secrets = {"SURETY_LOG_KEY_FILE": str(secret / "log.key")}
        self.manifest.write_text(yaml.safe_dump(self._here(secret)))

    def _secret(self, folder: Path) -> Path:
        """A folder with what the Secret of the chart holds."""
        made = folder / "secret"
        made.mkdir()
        (made / "api-keys.json").write_bytes((folder / "keys.json").read_bytes())
        for name in ("log.key", "subject.key"):
            (made / name).write_text(secrets.token_hex(32) + "\n")
        for path in made.iterdir():
            path.chmod(0o644)
        return made

    def _here(self, secret_folder: Path) -> Manifest:
        """The pod as it can be run without a cluster."""
        spec = copy.deepcopy(self.spec)
        (container,) = spec["containers"]
        container["env"] = [entry for entry in container["env"] if entry["name"] not in SHARED]
        for name in ("envFrom", "startupProbe", "readinessProbe", "livenessProbe"):
            del container[name]
        (port,) = container["ports"]
        port |= {"hostPort": self.port, "hostIP": "127.0.0.1"}
        for part in (*spec["volumes"], *container["volumeMounts"]):
            part["name"] = f"{self.pod}-{part['name']}"  # Podman makes a volume of that name
        (secret,) = (volume for volume in spec["volumes"] if "secret" in volume)
        assert {item["path"] for item in secret.pop("secret")["items"]} == {
            path.name for path in secret_folder.iterdir()
        }
        secret["hostPath"] = {"path": str(secret_folder), "type": "Directory"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.pod}, "spec": spec}

    def start(self) -> float:
        """Let Podman play the pod; seconds until its probe says that it is ready."""
        began = time.monotonic()
        self.do("kube", "play", str(self.manifest))
        return self.until_ready(began)

    def until_ready(self, began: float) -> float:
        while not self.is_ready():
            assert time.monotonic() - began < READY_WITHIN_S, f"not ready within {READY_WITHIN_S:g} s"
            time.sleep(0.1)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        return self.probe("startupProbe") == self.probe("readinessProbe") == 200

    def probe(self, name: str) -> int:
        """Status of the path that a probe of the chart asks; 0 where nobody replies."""
        (container,) = self.spec["containers"]
        try:
            return httpx.get(self.address + container[name]["httpGet"]["path"], timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def remove(self) -> None:
        self.do("pod", "rm", "--force", self.pod, check=False)
        for name in ("home", "tmp"):
            self.do("volume", "rm", f"{self.pod}-{name}", check=False)


class PodStory(Story):
    """What happens to one pod."""

    container: Pod

    @property
    def checks(self) -> list[Callable[[], str]]:
        return [
            self.starts,
            self.probes_are_content,
            self.is_nobody_special,
            self.root_is_read_only,
            self.knows_its_name,
            self.answers_as_the_model_did_when_it_was_accepted,
            self.says_where_an_answer_comes_from,
            self.asks_for_a_key,
            self.counts_what_it_answers,
            self.a_container_that_is_killed_comes_back_with_its_log,
            self.stops_under_load_and_loses_nothing,
        ]

    def starts(self) -> str:
        return f"ready after {self.container.start():.1f} s"

    def probes_are_content(self) -> str:
        names = ("startupProbe", "readinessProbe", "livenessProbe")
        assert [self.container.probe(name) for name in names] == [200, 200, 200]
        return ", ".join(self.container.spec["containers"][0][name]["httpGet"]["path"] for name in names)

    def root_is_read_only(self) -> str:
        for place in ("/", "/home/bentoml/bento", "/app/.venv", "/etc", "/run/secrets/surety"):
            written = self.container.run("sh", "-c", f"touch {place}/x 2>&1 && echo yes || true")
            assert written.endswith(("Read-only file system", "Permission denied")), (place, written)
        limits = self.container.spec["containers"][0]["resources"]["limits"]
        assert int(self.container.facts("{{.HostConfig.Memory}}")) == 2**30
        return f"memory {limits['memory']}"

    def knows_its_name(self) -> str:
        told = self.container.python("import json, os; print(json.dumps(dict(os.environ)))")
        assert told["SURETY_MACHINE"] == self.container.pod
        assert told["SURETY_WORKERS"] == str(WORKERS)
        return told["SURETY_MACHINE"]

    def a_container_that_is_killed_comes_back_with_its_log(self) -> str:
        began, first = time.monotonic(), self._main_process()
        os.kill(first, signal.SIGKILL)
        self._until(lambda: self._main_process() not in {0, first})
        took = self.container.until_ready(began)
        self._answer(self.records[0])
        return f"ready again after {took:.1f} s"

    def _main_process(self) -> int:
        """Its process id as this machine sees it; 0 while there is none."""
        return int(self.container.facts("{{.State.Pid}}"))


def main(image: str) -> int:
    """Try everything, say what came of it; the exit status."""
    with TemporaryDirectory() as folder:
        return tell(PodStory(Pod(image, Path(folder))))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
