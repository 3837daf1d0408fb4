"""README's six commands as they stand, each to its first step, from one feedback file."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rto.cli.main import main
from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

README = Path(__file__).resolve().parents[2] / "README.md"


def commands() -> list[list[str]]:
    """The arguments of the commands of "Your model, your data"."""
    text = README.read_text(encoding="utf-8")
    section = text.partition("## Your model, your data")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)
    (block,) = [block for block in blocks if block.startswith("rto sft")]
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines() if line]


@pytest.fixture
def here(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a feedback file, and no checkout."""
    build_base_model(tmp_path / "model", seed=0)
    counts = dict.fromkeys(("num_sft", "num_pairs", "num_prompts", "num_eval"), 8)
    write_task(tmp_path / "toy", seed=0, **counts, num_feedback=60)
    (tmp_path / "toy" / "feedback.jsonl").rename(tmp_path / "feedback.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_makes_its_first_step(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = commands()
    assert [argv[0] for argv in given] == ["sft", "reward", "dpo", "train", "fit", "generate"]
    for argv in given[:-1]:
        assert main([*argv, "--train.max_steps", "1"]) == 0, argv
        folder = here / argv[argv.index("--ckpt.output_dir") + 1]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
        assert (folder / "last" / "config.json").is_file()
    # Of 60 prompts three are held out: the constants that --reward.normalize_enable reads.
    constants = json.loads((here / "runs" / "reward" / "last" / "config.json").read_text())
    assert constants["std"] > 0
    assert "held-out pairs" in capfd.readouterr().out
    assert main(given[-1]) == 0
    assert "response" in capfd.readouterr().out


def test_no_librarys_warning_reaches_the_screen(here: Path) -> None:
    """In a process of its own: what a library prints depends on what is set when it is imported."""
    command = [sys.executable, "-m", "rto.cli.main", "generate", "--model", "model"]
    done = subprocess.run(
        [*command, "--prompt", "a word"], cwd=here, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rto generate: ")
