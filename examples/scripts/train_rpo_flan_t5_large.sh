#!/usr/bin/env bash
# usage: train_rpo_flan_t5_large.sh --data.feedback FILE [flags, e.g. --authors_code or --dry_run]
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto fit --algo rpo --config "$ex/configs/rpo-flan-t5-large-fit.yaml" "$@"
