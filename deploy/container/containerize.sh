#!/usr/bin/env bash
# Makes the image of a bento and prints its name: containerize.sh [BENTO]
#
# It builds twice: first with `bentoml containerize`, then from that image with the Dockerfile beside this file. It uses
# Docker if its daemon answers, else Buildah. SURETY_BASE_IMAGE names another base for the final image.
set -euo pipefail
cd "$(dirname "$0")/../.."
bentoml=.venv/bin/bentoml

bento=$(BENTOML=$bentoml deploy/container/image.sh "${1:-}")
built=surety-built:${bento#*:}
base=${SURETY_BASE_IMAGE:-$(sed -n 's/^ARG BASE=//p' deploy/container/Dockerfile)}

if docker info > /dev/null 2>&1; then
  $bentoml containerize "$bento" --backend docker --image-tag "$built" >&2
  docker build --file deploy/container/Dockerfile --build-arg "BUILT=$built" --build-arg "BASE=$base" \
    --tag "$bento" deploy/container >&2
else
  export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} BUILDAH_LAYERS=true
  # The machine's list of certificate authorities, only during the build: uv asks the package index by TLS.
  authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  $bentoml containerize "$bento" --backend buildah --image-tag "$built" \
    --opt "volume=$authorities:/etc/ssl/certs/ca-certificates.crt:ro" >&2
  buildah build --file deploy/container/Dockerfile --build-arg "BUILT=$built" --build-arg "BASE=$base" \
    --tag "$bento" deploy/container >&2
fi
echo "$bento"
