from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from job_server import write_job

from rto import __version__
from rto.jobs.render import main

ROOT = Path(__file__).resolve().parents[2]
RTO = "rto train --algo rto --config examples/configs/rto-llama3-8b-8xa100.yaml"


def job(folder: Path, entrypoint: str = RTO, **content: Any) -> str:
    return str(write_job(folder, name="My job", entrypoint=entrypoint, **content))


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_the_manifest_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"working_dir": ".", "excludes": ["/runs/"], "env_vars": {"A": "1"}}
    path = job(tmp_path, runtime_env=env, resources={"num_cpus": 1})
    manifest = yaml.safe_load(shown(capsys, "kuberay", path, "--", "--train.max_steps", "2"))
    spec = manifest["spec"]
    assert manifest["metadata"]["name"] == "my-job"
    flags = "--train.max_steps 2 --ckpt.output_dir /shared/runs/My-job --ckpt.load_enable true"
    assert spec["entrypoint"] == f"cd /shared && {RTO} {flags}"
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"A": "1"}}
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["rayStartParams"] == {"num-cpus": "33", "num-gpus": "8"}
    (container,) = workers["template"]["spec"]["containers"]
    assert container["image"] == f"rto-rlhf:{__version__}-cuda"


def test_options_reach_the_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--image", "i:1", "--claim", "disk", "--secret", "tokens", "--memory", "9Gi"]
    size = ["--nodes", "2", "--gpus_per_node", "4", "--cpus_per_node", "99"]
    manifest = yaml.safe_load(shown(capsys, "kuberay", job(tmp_path), *options, *size))
    (workers,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 2
    (container,) = workers["template"]["spec"]["containers"]
    assert container["image"] == "i:1"
    assert container["envFrom"] == [{"secretRef": {"name": "tokens"}}]
    asked = {"cpu": "99", "nvidia.com/gpu": "4", "memory": "9Gi"}
    assert container["resources"]["limits"] == asked
    volume = workers["template"]["spec"]["volumes"][0]
    assert volume["persistentVolumeClaim"]["claimName"] == "disk"


def test_a_run_on_cpus_has_the_image_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = "rto train --algo rto --config examples/configs/quickstart-rto.yaml"
    text = shown(capsys, "kuberay", job(tmp_path, quick))
    assert f"rto-rlhf:{__version__}-cpu" in text
    assert "nvidia" not in text


def test_the_batch_script_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job(tmp_path, runtime_env={"env_vars": {"A": "b c"}}, resources={"num_cpus": 1})
    text = shown(capsys, "slurm", path, "--nodes", "2", "--", "--train.max_steps", "2")
    for line in ("--job-name=My-job", "--nodes=2", "--gpus-per-node=4", "--cpus-per-task=17"):
        assert f"\n#SBATCH {line}\n" in text
    assert f"\ncd {ROOT}\n" in text
    assert "\nexport A='b c'\n" in text
    flags = f"--ckpt.output_dir {ROOT}/runs/My-job --ckpt.load_enable true &\n"
    line = f"{RTO} --train.max_steps 2 --ray.address auto {flags}"
    assert f'RAY_ADDRESS="$address:$port" {line}' in text


def test_a_run_joins_the_cluster_of_its_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, "slurm", job(tmp_path, f"{RTO} --ray.address auto"))
    assert text.count("--ray.address auto") == 1
    text = shown(capsys, "slurm", job(tmp_path, f"{RTO} --ray.address other:6379"))
    assert "--ray.address other:6379 --ray.address auto --ckpt" in text


def test_what_is_said_of_the_flags_is_no_part_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kuberay", job(tmp_path, f"{RTO} --train.seed 1"), "--", "--train.seed", "2"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("apiVersion:")
    assert "the last counts: --train.seed 1, --train.seed 2" in said.err


@pytest.mark.parametrize("form", ["kuberay", "slurm"])
def test_a_run_folder_that_is_named_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    line = f"{RTO} --ray.address auto --ckpt.output_dir /shared/a/b"
    text = shown(capsys, form, job(tmp_path, line))
    assert text.count("output_dir") == 1
    assert "--ckpt.output_dir /shared/a/b --ckpt.load_enable true" in text


@pytest.mark.parametrize(
    ("form", "content", "flags", "said"),
    [
        ("kuberay", {"runtime_env": {"working_dir": "docs"}}, [], "build the files into the image"),
        ("kuberay", {}, ["--", "--ckpt.output_dir", "/data/x"], "not on the volume of the pods"),
        ("kuberay", {}, ["--", "--ckpt.output_dir", "/sharedx"], "not on the volume of the pods"),
        ("slurm", {"runtime_env": {"pip": ["x"]}}, [], "Slurm installs nothing"),
        ("slurm", {"entrypoint": "rto quickstart"}, [], "no training command of rto"),
        ("slurm", {"entrypoint": "python x.py"}, [], "no training command of rto"),
        ("slurm", {}, ["--nodes", "3"], "--nodes 3 of 3 GPUs are 9"),
        ("slurm", {}, ["--nodes", "0"], "a whole number from 1"),
        ("slurm", {}, ["--", "--train.max_step", "1"], "did you mean --train.max_steps"),
        ("slurm", {}, ["--", "--x", "api_key=planted"], "hold a secret"),
        ("slrum", {}, [], "invalid choice"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    content: dict[str, Any],
    flags: list[str],
    said: str,
) -> None:
    given = {"entrypoint": RTO, **content}
    assert main([form, str(write_job(tmp_path, **given)), *flags]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert "planted" not in printed.err
