"""A job as a batch script of Slurm: one Ray cluster per allocation, with a token of its own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from rto.jobs.job_file import VARIABLE_VALUE

if TYPE_CHECKING:
    from rto.jobs.cluster_size import ClusterSize

SCRIPT = Template(
    r"""#!/usr/bin/env bash
# $name as a Slurm job; what your site asks for stands before the file's name:
#   sbatch --partition P --account A --mem 0 --time 24:00:00 THIS
# Submitted again, after the time limit for one, it goes on from its newest checkpoint.
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=$cpus
$gpu_line#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail
cd $folder
export PATH=$programs:$$PATH
$exports
# Nobody without this token, which no file holds, can join the cluster or use it.
RAY_AUTH_TOKEN=$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# This script runs on the first node of the allocation, which is the cluster's head.
head=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$$(getent ahostsv4 "$$head" | awk 'NR == 1 {print $$1}')
port=$$((20000 + SLURM_JOB_ID % 10000))
export address port

srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
  start=(ray start --block --disable-usage-stats --temp-dir="/tmp/ray-$$SLURM_JOB_ID"
         --num-cpus=$cpus --num-gpus=$gpus)
  if [ "$$SLURM_PROCID" = 0 ]; then
    exec "$${start[@]}" --head --node-ip-address="$$address" --port="$$port" \
      --include-dashboard=false
  fi
  until (: </dev/tcp/"$$address"/"$$port") 2>/dev/null; do sleep 1; done
  exec "$${start[@]}" --address="$$address:$$port"
' &
cluster=$$!
trap 'kill "$$cluster" 2>/dev/null || true' EXIT

for _ in $$(seq 120); do
  if (: </dev/tcp/"$$address"/"$$port") 2>/dev/null; then break; fi
  if ! kill -0 "$$cluster" 2>/dev/null; then echo "Ray did not start" >&2; exit 1; fi
  sleep 1
done

trap 'kill -TERM "$${run:-}" 2>/dev/null || true' TERM
RAY_ADDRESS="$$address:$$port" $line &
run=$$!
code=0
wait "$$run" || code=$$?
# A signal ends the wait, not the run: it writes how it ended.
while kill -0 "$$run" 2>/dev/null; do
  code=0
  wait "$$run" || code=$$?
done
exit "$$code"
"""
)


@dataclass(frozen=True)
class Locations:
    """Where the script runs the job: a folder and an environment that all nodes see."""

    folder: Path
    programs: Path


def batch_script(
    name: str, line: str, size: ClusterSize, place: Locations, env_vars: Mapping[str, str]
) -> str:
    """The script for `sbatch`. ``line`` is one simple command."""
    return SCRIPT.substitute(
        name=name,
        nodes=size.nodes,
        cpus=size.cpus,
        gpus=size.gpus,
        gpu_line=f"#SBATCH --gpus-per-node={size.gpus}\n" if size.gpus else "",
        folder=shlex.quote(str(place.folder)),
        programs=shlex.quote(str(place.programs)),
        exports="".join(f"export {key}={_value(text)}\n" for key, text in env_vars.items()),
        line=line,
    )


def _value(text: str) -> str:
    """A reference to a variable stays one; any other text is taken as it stands."""
    return f'"{text}"' if VARIABLE_VALUE.fullmatch(text) else shlex.quote(text)
