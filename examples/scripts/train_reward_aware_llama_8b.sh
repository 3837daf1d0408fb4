#!/usr/bin/env bash
# usage: train_reward_aware_llama_8b.sh --data.feedback FILE [flags, e.g. --algo.reward_aware.eta 3 or --dry_run]
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$ex/../.venv/bin:$PATH"
rto fit --algo reward_aware --config "$ex/configs/reward_aware-llama3-8b-fit.yaml" "$@"
