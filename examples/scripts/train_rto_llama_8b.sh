#!/usr/bin/env bash
# usage: train_rto_llama_8b.sh [flags], e.g. --train.max_steps 2 or --dry_run
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto train --algo rto --config "$ex/configs/rto-llama3-8b-8xa100.yaml" "$@"
