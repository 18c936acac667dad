#!/usr/bin/env bash
# Peak memory of --infer on PNG and JPEG of 100 megapixels, CPU: under 2 GB. Needs 4 GB and some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pytest -m slow -s -k 100_megapixels tests/test_inference.py
