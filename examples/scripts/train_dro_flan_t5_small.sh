#!/usr/bin/env bash
# usage: train_dro_flan_t5_small.sh --data.feedback FILE [flags, e.g. --authors_code or --dry_run]
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto fit --algo dro --config "$ex/configs/dro-flan-t5-small-fit.yaml" "$@"
