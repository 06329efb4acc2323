#!/usr/bin/env bash
# Builds the image as a release would be and tries it (tests/container/check.py).
#
# Docker where its daemon answers; else Buildah and Podman on a base of Debian's packages, kept with the layers built on
# it in SURETY_CONTAINER_STORE between two runs. Exit status 77, and says why, where neither can be done.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "container-test SKIPPED: $*" >&2; exit 77; }

work=$PWD/build/container
export SURETY_HOME=$work/home BENTOML_HOME=$work/bentoml  # nobody's own stores are touched
mkdir -p "$SURETY_HOME" "$BENTOML_HOME"

if docker info > /dev/null 2>&1; then
  export CONTAINER_ENGINE=docker
else
  [ "$(id -u)" = 0 ] || skip "no Docker daemon answers, and without one this needs root"
  for tool in buildah podman runc debootstrap; do
    command -v "$tool" > /dev/null || skip "no Docker daemon answers, and $tool is not installed"
  done
  store=${SURETY_CONTAINER_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/surety-container}
  mkdir -p "$store"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/layers"\nrunroot = "%s/run"\n' "$store" "$store" > "$store/storage.conf"
  export CONTAINERS_STORAGE_CONF=$store/storage.conf SURETY_BASE_IMAGE=localhost/surety-base
  # crun needs another kind of cgroups than some machines have; limits are given because raising them needs a right.
  files=$(ulimit -Hn)
  [ "$files" != unlimited ] || files=65536
  export CONTAINER_ENGINE="podman --runtime runc"
  export CONTAINER_OPTIONS="--ulimit nofile=$files:$files --ulimit nproc=4096:4096"
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

# What this run has built stays under one name, so that the next one finds its layers and the store does not grow.
engine=${CONTAINER_ENGINE%% *}
for made in "$image" "surety-built:${image#*:}"; do
  $engine tag "$made" "${made%:*}:tested"
  $engine rmi "$made" > /dev/null
done
[ "$engine" = docker ] || podman image prune --force > /dev/null  # the store is ours alone
exit "$status"
