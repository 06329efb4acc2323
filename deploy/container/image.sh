#!/usr/bin/env bash
# Prints the name that containerize.sh gives to the image of a bento: image.sh [BENTO]
set -euo pipefail
folder=$("${BENTOML:-.venv/bin/bentoml}" get "${1:-surety:latest}" --output path)
echo "$(basename "$(dirname "$folder")"):$(basename "$folder")"
