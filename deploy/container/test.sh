#!/usr/bin/env bash
# Builds the image as for a release and tests it (tests/container/check.py), also as the pod of the Helm chart (pod.py there).
#
# It uses Docker if its daemon answers. Else it uses Buildah and Podman on a base of Debian's packages; SURETY_CONTAINER_STORE
# keeps that base and its layers between runs. If neither works, it prints the reason and exits with 77.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "container-test SKIPPED: $*" >&2; exit 77; }

work=$PWD/build/container
export SURETY_HOME=$work/home BENTOML_HOME=$work/bentoml  # separate stores; your own are not touched
mkdir -p "$SURETY_HOME" "$BENTOML_HOME"

if docker info > /dev/null 2>&1; then
  export CONTAINER_ENGINE=docker
else
  [ "$(id -u)" = 0 ] || skip "no Docker daemon answers, and without one this needs root"
  for tool in buildah podman runc debootstrap catatonit; do
    command -v "$tool" > /dev/null || skip "no Docker daemon answers, and $tool is not installed"
  done
  store=${SURETY_CONTAINER_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/surety-container}
  mkdir -p "$store"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/layers"\nrunroot = "%s/run"\n' "$store" "$store" > "$store/storage.conf"
  export CONTAINERS_STORAGE_CONF=$store/storage.conf SURETY_BASE_IMAGE=localhost/surety-base
  # Some machines lack the cgroups that crun needs. The limits are given because raising them needs a privilege.
  files=$(ulimit -Hn)
  [ "$files" != unlimited ] || files=65536
  export CONTAINER_ENGINE="podman --runtime runc"
  export CONTAINER_OPTIONS="--ulimit nofile=$files:$files --ulimit nproc=4096:4096"
  printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=4096:4096"]\n' "$files" "$files" > "$store/containers.conf"
  name=$(sed -n 's/^  base_image: *//p' bentofile.yaml)
  podman image exists "$name" || deploy/container/base.sh "$name" &
  base=$!
fi

.venv/bin/surety example
make --no-print-directory build
[ -z "${base:-}" ] || wait "$base"
image=$(deploy/container/containerize.sh 2> "$work/build.log") || { tail -40 "$work/build.log" >&2; exit 1; }
status=0
.venv/bin/python -m tests.container.check "$image" || status=$?
# The same image as the pod of the Helm chart, which Podman plays and Docker does not.
if [ -n "${store:-}" ]; then
  CONTAINERS_CONF=$store/containers.conf .venv/bin/python -m tests.container.pod "$image" || status=$?
else
  echo "the pod of the Helm chart was not tried: Docker does not play manifests" >&2
fi

# The result of this run keeps one name, so that the next run finds its layers and the store does not grow.
engine=${CONTAINER_ENGINE%% *}
for made in "$image" "surety-built:${image#*:}"; do
  $engine tag "$made" "${made%:*}:tested"
  $engine rmi "$made" > /dev/null
done
[ "$engine" = docker ] || podman image prune --force > /dev/null  # no other program uses this store
exit "$status"
