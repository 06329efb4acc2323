#!/usr/bin/env bash
# Makes the image of a bento and says its name: containerize.sh [BENTO]
#
# Twice built: by `bentoml containerize`, and from that by the Dockerfile beside this file. Docker builds where its
# daemon answers, else Buildah. SURETY_BASE_IMAGE names another base for the image that runs.
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
  # The machine's own list of certificate authorities, while it is built only: uv asks the package index by TLS.
  authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  $bentoml containerize "$bento" --backend buildah --image-tag "$built" \
    --opt "volume=$authorities:/etc/ssl/certs/ca-certificates.crt:ro" >&2
  buildah build --file deploy/container/Dockerfile --build-arg "BUILT=$built" --build-arg "BASE=$base" \
    --tag "$bento" deploy/container >&2
fi
echo "$bento"
