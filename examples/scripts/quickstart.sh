#!/usr/bin/env bash
# SFT, reward model, DPO, PPO and RTO on a toy task, then a table; usage: quickstart.sh [--seed N]
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
rto quickstart "$@"
