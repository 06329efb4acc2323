#!/usr/bin/env bash
# Pushes the image of a bento, made by containerize.sh, to a registry (`make push`): push.sh [BENTO]
# Prints its name there on stdout.
#
# REGISTRY        where to, such as registry.example.org/ward
# IMAGE           its name there, such as surety:1.0.0
# REGISTRY_USER, REGISTRY_TOKEN
#                 the login; without a token, the login that exists already. The token is passed by standard input.
#                 The file in which the engine keeps it is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
missing=()
for name in REGISTRY IMAGE; do [ -n "${!name:-}" ] || missing+=("$name"); done
[ -z "${REGISTRY_TOKEN:-}" ] || [ -n "${REGISTRY_USER:-}" ] || missing+=(REGISTRY_USER)
if [ ${#missing[@]} -gt 0 ]; then
  echo "push: not set: ${missing[*]}; e.g. make push REGISTRY=registry.example.org/ward IMAGE=surety:1.0.0" >&2
  exit 2
fi

made=$(deploy/container/image.sh "${1:-}")
engine=docker
docker info > /dev/null 2>&1 || engine=podman
if [ -n "${REGISTRY_TOKEN:-}" ]; then
  login=$(mktemp --directory)
  trap 'rm -rf "$login"' EXIT
  export DOCKER_CONFIG=$login REGISTRY_AUTH_FILE=$login/auth.json
  printf '%s' "$REGISTRY_TOKEN" | $engine login --username "$REGISTRY_USER" --password-stdin "${REGISTRY%%/*}" >&2
fi
$engine tag "$made" "$REGISTRY/$IMAGE"
$engine push "$REGISTRY/$IMAGE" >&2
echo "$REGISTRY/$IMAGE"
