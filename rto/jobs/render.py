"""Print a job for a cluster that does not run yet: KubeRay's or Slurm's."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rto import __version__
from rto.cli.one_line_parser import OneLineParser, named, whole
from rto.errors import UserError
from rto.jobs import kuberay, slurm
from rto.jobs.job_file import HERE, JobFile, check_overrides, load_job
from rto.jobs.server import run_script
from rto.jobs.submission import OUTPUT_DIR, JobRun, check_run
from rto.resources import ROOT
from rto.tracking.quiet import quiet

if TYPE_CHECKING:
    from rto.jobs.cluster_size import ClusterSize

MOST_NODES = 10_000


def name_of(job: JobFile) -> str:
    """The job's name as one word, for files and for the scheduler."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", job.name).strip("-._") or "rto"


def going_on(job: JobFile, overrides: Sequence[str], run: JobRun, folder: str) -> str:
    """The job's line with a run folder that stays the same however often the job is submitted, so
    that it goes on where it was."""
    line = " ".join([job.entrypoint, *map(shlex.quote, overrides)])
    if run.output_dir is None:
        line = f"{line} --{OUTPUT_DIR} {shlex.quote(folder)}"
    return f"{line} --ckpt.load_enable true"


def to_kuberay(job: JobFile, overrides: list[str], options: argparse.Namespace, run: JobRun) -> str:
    """
    Raises:
        UserError: files or a run folder that no pod would have.
    """
    if job.working_dir not in (None, ROOT):
        raise UserError(
            f"runtime_env.working_dir {job.working_dir}: a RayJob uploads nothing: build the files "
            "into the image (--image) and leave it out, or use a running cluster and submit.py"
        )
    folder = run.output_dir
    if folder is not None and not folder.startswith(f"{kuberay.SHARED}/"):
        raise UserError(
            f"{OUTPUT_DIR} {folder} is not on the volume of the pods: give a path below "
            f"{kuberay.SHARED}, or leave it out"
        )
    size = _size(job, options, run)
    image = options.image or f"rto-rlhf:{__version__}-{'cuda' if size.gpus else 'cpu'}"
    pods = kuberay.Pods(image, options.claim, options.secret, options.memory)
    env = job.runtime_env
    return kuberay.ray_job(
        job.name,
        going_on(job, overrides, run, f"{kuberay.SHARED}/runs/{name_of(job)}"),
        size,
        pods,
        runtime_env={key: env[key] for key in ("env_vars", "pip") if env.get(key)},
        driver=job.resources,
    )


def to_slurm(job: JobFile, overrides: list[str], options: argparse.Namespace, run: JobRun) -> str:
    """
    Raises:
        UserError: packages that nobody would install.
    """
    if job.runtime_env.get("pip"):
        raise UserError("runtime_env.pip: Slurm installs nothing: install it where the job runs")
    if run.config.ray.address != "auto":
        overrides = [*overrides, "--ray.address", "auto"]  # Else it would start another cluster.
    folder = HERE if job.working_dir in (None, ROOT) else job.working_dir
    return slurm.batch_script(
        name_of(job),
        going_on(job, overrides, run, str(folder / "runs" / name_of(job))),
        _size(job, options, run),
        slurm.Locations(folder, Path(sys.executable).parent),
        job.runtime_env.get("env_vars") or {},
    )


def _size(job: JobFile, options: argparse.Namespace, run: JobRun) -> ClusterSize:
    quiet(None)  # The plan imports libraries, which warn.
    from rto.jobs.cluster_size import cluster_size

    return cluster_size(
        run,
        driver_cpus=job.resources.get("num_cpus", 0),
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        cpus_per_node=options.cpus_per_node,
    )


FORMS = {"kuberay": to_kuberay, "slurm": to_slurm}


def _script(options: argparse.Namespace, overrides: list[str]) -> int:
    job = load_job(options.job)
    check_overrides(overrides)
    line = " ".join([job.entrypoint, *map(shlex.quote, overrides)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # The manifest alone may go to the standard output.
        run = check_run(line, job.working_dir or HERE)
    print(said.getvalue(), end="", file=sys.stderr)
    if run is None:
        raise UserError(f"{options.job}: no training command of rto: it has no plan of actors")
    print(FORMS[options.form](job, overrides, options, run), end="")
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="", allow_abbrev=False)
    parser.usage = "render.py kuberay|slurm JOB.yaml [OPTIONS] [-- OVERRIDES...]"
    parser.unknown_hint = ": flags of the run stand behind --"
    parser.add_argument("form", choices=FORMS, help="what to print")
    parser.add_argument("job", type=Path, help="job file (YAML)")
    nodes = whole(1, MOST_NODES)
    parser.add_argument("--nodes", type=nodes, help="nodes; else as many as the run asks for")
    parser.add_argument("--gpus_per_node", type=nodes, help="GPUs that a node has")
    parser.add_argument("--cpus_per_node", type=nodes, help="CPUs that a node has")
    kube = parser.add_argument_group("kuberay")
    kube.add_argument("--image", type=named, help="image of the pods; else that of the Dockerfile")
    kube.add_argument(
        "--claim", type=named, default="rto", help="PersistentVolumeClaim that all pods write to"
    )
    kube.add_argument("--secret", type=named, help="Secret with variables such as HF_TOKEN")
    kube.add_argument("--memory", type=named, help="memory of a worker, as in 800Gi")
    return parser


def main(argv: Sequence[str]) -> int:
    return run_script("render", _parser(), _script, argv)
