#!/usr/bin/env bash
# usage: train_rdpo_llama_8b.sh [flags], e.g. --train.max_steps 2 or --dry_run
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto dpo --config "$ex/configs/rdpo-llama3-8b-8xa100.yaml" "$@"
