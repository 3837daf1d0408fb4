"""The wheel, installed beside the same libraries and run from a folder that is no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]


def done(*command: str | Path, cwd: Path) -> str:
    """What a command printed; nothing of this checkout is on its path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, for a build leaves folders in its source."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = done("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    done(*pip, "--wheel-dir", folder, folder / "source", cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel; the libraries are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", python)
    done(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = set(file.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(file.read(about))
    configs = {path.name for path in (ROOT / "examples" / "configs").glob("*.yaml")}
    assert {f"rto/shipped/examples/configs/{name}" for name in configs} <= names
    assert {"rto/py.typed", "rpo_ext/py.typed", "rto/shipped/ray_jobs/submit.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]
    assert (metadata["Name"], metadata["Author"]) == ("rto-rlhf", "rto authors")
    assert "# rto" in metadata.get_payload()
    # What pip must find together: openrlhf pins another DeepSpeed.
    core = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [each for each in core if each.startswith("deepspeed==")]
    assert not [each for each in core if each.startswith("openrlhf")]


def test_it_runs_where_there_is_no_checkout(programs: Path, tmp_path: Path) -> None:
    where = "import rto, rpo_ext; print(rto.__version__, rto.__file__, rpo_ext.__file__)"
    version, *files = done(programs / "python", "-c", where, cwd=tmp_path).split()
    assert all(Path(file).is_relative_to(programs.parent) for file in files)
    assert done(programs / "rto", "--version", cwd=tmp_path) == f"rto {version}\n"
    methods = json.loads(done(programs / "rto", "methods", "--json", cwd=tmp_path))
    assert {"rto", "rpo"} <= {method["name"] for method in methods}
    renamed = subprocess.run(
        [programs / "rto", "train", "--critic_pretrain", "m"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "here --critic.model_name_or_path" in renamed.stderr
    stages = (
        "from pathlib import Path; from rto.quickstart.recipe import STAGES, stage_config\n"
        "print([stage_config(stage, Path('run')).data.max_len for stage in STAGES])"
    )
    assert done(programs / "python", "-c", stages, cwd=tmp_path).count(",") == 4
    submit = (programs / "python", "-m", "rto.shipped.ray_jobs.submit", "--dry_run")
    printed = done(*submit, "ray_jobs/quickstart_cpu.yaml", cwd=tmp_path)
    assert "rto-quickstart-cpu (checked)" in printed
    assert f"cd {tmp_path}" in printed
