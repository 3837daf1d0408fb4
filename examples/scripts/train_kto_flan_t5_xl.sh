#!/usr/bin/env bash
# usage: train_kto_flan_t5_xl.sh --data.feedback FILE [flags, e.g. --authors_code or --dry_run]
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto fit --algo kto --config "$ex/configs/kto-flan-t5-xl-fit.yaml" "$@"
