"""The job files: one for each published recipe, each a run that `rto` takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from example_configs import CONFIGS, command_of

from rto.errors import UserError
from rto.jobs.cluster_size import cluster_size
from rto.jobs.job_file import JobFile, load_job
from rto.jobs.submission import RUNS, submission

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "ray_jobs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "examples" / "scripts").glob("*.sh"))
MAX_LINES = 20
NO_JOB = {
    "laptop": "a size for all commands, no recipe",
    "quickstart-compare": "what `rto compare` reads",
    "quickstart-sft": "a stage of quickstart_recipe_cpu.yaml",
    "quickstart-reward": "a stage of quickstart_recipe_cpu.yaml",
    "quickstart-dpo": "a stage of quickstart_recipe_cpu.yaml",
    "quickstart-ppo": "a stage of quickstart_recipe_cpu.yaml",
    "quickstart-fit": "an exercise on the quickstart's data",
}
"""Configuration -> why it has no job."""


def config_of(job: JobFile) -> str | None:
    found = re.search(r"--config examples/configs/([\w.-]+)\.yaml", job.entrypoint)
    return found and found[1]


FEEDBACK = ["--data.feedback", "f.jsonl"]


def flags_of(path: Path) -> list[str]:
    """Those that the job's header tells its user to give."""
    return FEEDBACK if "-- --data.feedback" in path.read_text() else []


def test_every_configuration_has_one_job_or_a_reason() -> None:
    used = [config_of(load_job(path)) for path in JOBS]
    named = sorted(name for name in used if name is not None)
    assert named == sorted({path.stem for path in CONFIGS} - NO_JOB.keys())
    assert NO_JOB.keys() <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_has_a_job_for_each_of_its_commands(script: Path) -> None:
    entrypoints = [load_job(path).entrypoint for path in JOBS]
    text = re.sub(r"\\\n\s*", "", script.read_text())
    commands = re.findall(r"^rto (\w+)(?: --algo (\w+))?(?:.*configs/([\w.-]+\.yaml))?", text, re.M)
    assert commands
    for command, algo, config in commands:
        wanted = f"rto {command}{f' --algo {algo}' if algo else ''}"
        wanted += f" --config examples/configs/{config}" if config else ""
        assert [each for each in entrypoints if f"{each} ".startswith(f"{wanted} ")], wanted


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_is_a_run_that_rto_takes(path: Path) -> None:
    job = load_job(path)
    _, run = submission(job, flags_of(path))
    if run is None:
        assert job.entrypoint == "rto quickstart"
        return
    with pytest.raises(UserError, match="--train.max_step: did you mean"):
        submission(job, [*flags_of(path), "--train.max_step", "1"])
    config = ROOT / "examples" / "configs" / f"{config_of(job)}.yaml"
    assert shlex.split(job.entrypoint)[1] == command_of(config)
    assert run.command in RUNS
    assert run.config.ray.address == "auto"
    size = cluster_size(run, driver_cpus=job.resources.get("num_cpus", 0))
    (told,) = re.findall(r"\b(one|8) A100|(CPU)s?\b|(this machine)", path.read_text())[:1]
    assert size.gpus == {"one": 1, "8": 8}.get(told[0], 0)


@pytest.mark.parametrize("path", [p for p in JOBS if flags_of(p)], ids=lambda path: path.stem)
def test_a_job_whose_rows_are_yours_asks_for_them(path: Path) -> None:
    with pytest.raises(UserError, match="no rows: give --data.feedback"):
        submission(load_job(path), [])


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_short_and_says_how_it_is_submitted(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert f"python ray_jobs/submit.py ray_jobs/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_uploaded_job_leaves_out_what_is_large(path: Path) -> None:
    job = load_job(path)
    if job.working_dir is not None:
        assert job.working_dir == ROOT
        assert {"/runs/", "/tests/", "/benchmarks/"} <= set(job.runtime_env["excludes"])
