"""The image, as far as it can be built without a registry: its sources, its commands, its steps."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rto import __version__
from rto.jobs.kuberay import USER

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


@dataclass(frozen=True)
class Step:
    word: str
    rest: str


def steps(text: str) -> list[Step]:
    """Instructions in their order, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [Step(word, rest) for word, rest in split]


STEPS = steps(TEXT)


def of(word: str) -> list[str]:
    return [step.rest for step in STEPS if step.word == word]


def copied(rest: str) -> tuple[list[str], str]:
    *sources, target = rest.split()
    return sources, target


def test_the_reader_of_this_test_reads() -> None:
    text = "# c\nRUN a \\\n  # d\n  && b\n\nUSER x\n"
    assert steps(text) == [Step("RUN", "a    && b"), Step("USER", "x")]


def test_every_instruction_is_known_and_there() -> None:
    assert {step.word for step in STEPS} == KNOWN
    assert STEPS[0] == Step("ARG", "HARDWARE=cpu")


def test_both_kinds_of_machine_have_a_stage() -> None:
    stages = [re.fullmatch(r"(\S+)(?: AS (\w+))?", rest) for rest in of("FROM")]
    names = [stage[2] for stage in stages if stage]
    assert names == ["cpu", "cuda", None]
    assert of("FROM")[-1] == "${HARDWARE}"
    images = [of("FROM")[0].split()[0], of("ARG")[1].partition("=")[2]]
    assert all(re.fullmatch(r"[a-z]+(/[a-z]+)?:[\w.-]+", image) for image in images), images


@pytest.mark.parametrize("rest", of("COPY"))
def test_what_is_copied_is_there_and_not_ignored(rest: str) -> None:
    sources, _ = copied(rest)
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] not in ignored


@pytest.mark.parametrize("rest", of("RUN"))
def test_commands_are_ones_that_a_shell_reads(rest: str) -> None:
    done = subprocess.run(["bash", "-n"], input=rest, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def first_layer(tmp_path: Path) -> Path:
    """The image's folder where the libraries are installed: what is copied before that."""
    folder = tmp_path / "opt"
    for step in STEPS[: next(i for i, s in enumerate(STEPS) if "make PYTHON" in s.rest)]:
        if step.word != "COPY":
            continue
        sources, target = copied(step.rest)
        for source in sources:
            place = folder / target / Path(source).name if target == "./" else folder / target
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    (folder / "rpo_ext").mkdir()
    (folder / "rpo_ext" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("hardware", ["cpu", "cuda"])
def test_the_libraries_are_those_of_the_extra(first_layer: Path, hardware: str) -> None:
    (install,) = (rest for rest in of("RUN") if "make PYTHON" in rest)
    make = re.sub(r"^.*?&& make PYTHON=\S+", f"make -n PYTHON={sys.executable}", install)
    done = subprocess.run(
        ["bash", "-ec", make],
        cwd=first_layer,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HARDWARE": hardware},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f'-e ".[{hardware}]"' in done.stdout
    assert ("--torch-backend cpu" in done.stdout) == (hardware == "cpu")
    name = f"{hardware}.txt"
    assert (first_layer / "requirements" / name).is_file()


def test_the_first_layer_is_enough_for_the_setup(first_layer: Path) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version", "--quiet"],
        cwd=first_layer,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == __version__


def test_programs_are_found_by_login_shells_and_others() -> None:
    programs = "/opt/rto/.venv/bin"
    assert of("ENV") == [f"PATH={programs}:$PATH"]
    assert of("WORKDIR")[0] == "/opt/rto"
    (profile,) = (rest for rest in of("RUN") if "profile.d" in rest)
    assert f"export PATH={programs}:$PATH" in profile
    assert "wget" in of("RUN")[0], "KubeRay's probes"


def test_the_images_tags_and_user_are_those_that_render_names() -> None:
    assert re.findall(r"-t (\S+)", TEXT) == [f"rto-rlhf:{__version__}-{x}" for x in ("cpu", "cuda")]
    assert (of("USER"), USER) == (["ubuntu"], 1000), "the first user of Ubuntu's images"
    assert shutil.which("rto") is None or of("CMD") == ['["rto", "--help"]']
