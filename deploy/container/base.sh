#!/usr/bin/env bash
# Makes substitutes for python:3.11-slim from Debian's packages, so that an image can be built and tested without an image
# registry. Only for tests: a release uses the real base. Needs root, debootstrap, buildah, podman.
#
# base.sh NAME makes NAME, the base of the build, and localhost/surety-base, the base of the final image.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=$1
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT

mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -1)  # the package source of this machine
[ -n "$mirror" ] || { echo "apt knows no source of Debian's packages: see /etc/apt" >&2; exit 1; }
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/root" \
  "$mirror" > "$folder/log" 2>&1 || { tail -20 "$folder/log" >&2; exit 1; }
ln --symbolic python3 "$folder/root/usr/bin/python"
rm -rf "$folder/root"/usr/lib/python3*/EXTERNALLY-MANAGED  # official images have none

tar --directory "$folder/root" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
  --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' --create . |
  podman import --quiet - localhost/surety-base > /dev/null

# The base of the build has uv in the version of the lock, and uses the certificates that are mounted during the build.
work=$(buildah from localhost/surety-base)
buildah copy --quiet "$work" .venv/bin/uv /usr/local/bin/uv > /dev/null
buildah config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$work"
buildah commit --quiet --rm "$work" "$name" > /dev/null
