"""docs/scaling.md: every table that follows a command is that command's output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_shapes import write_known

from rto.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SIZES = {
    "OpenRLHF/Llama-3-8b-sft-mixture": "8b",
    "RTO-RL/Llama3-8B-DPO": "8b",
    "RTO-RL/Llama3.2-1B-RewardModel": "1b",
    "meta-llama/Meta-Llama-3-70B": "70b",
}
"""Models of the commands -> their sizes."""
Table = list[dict[str, str]]


def tables(text: str, bar: str) -> Iterator[Table]:
    """Tables whose cells stand between bars; the line below a header has none of its own."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line[:1] in (bar, "┃"):
            cells = [cell.strip() for cell in re.split(f"[{bar}┃]", line)[1:-1]]
            if not set("".join(cells)) <= set("-"):
                rows.append(cells)
        elif rows and not line.startswith(("┏", "┡", "└")):
            yield [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
            rows = []


def parts() -> list[tuple[str, list[Table]]]:
    """Each command of the page, and the tables between it and the next one or a heading."""
    found: list[tuple[str, list[Table]]] = []
    for block in re.split(r"^```bash\n", PAGE, flags=re.M)[1:]:
        command, _, rest = block.partition("```\n")
        before = re.split(r"^## ", rest, flags=re.M)[0]
        found.append((re.sub(r"\\\n\s*", "", command).strip(), list(tables(before, "|"))))
    return found


PARTS = parts()
TOLD = [(command, each) for command, each in PARTS if each]


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """Directories with nothing but the config.json of such a model, each name its own."""
    found: dict[str, str] = {}
    for name, size in SIZES.items():
        folder = tmp_path / name.replace("/", "--")
        folder.mkdir()
        found[name] = str(write_known(size, folder))
    return found


def run(command: str, models: dict[str, str]) -> int:
    _, name, *words = shlex.split(command)
    given = {
        "--actor.model_name_or_path": "OpenRLHF/Llama-3-8b-sft-mixture",
        "--dpo.model_name_or_path": "RTO-RL/Llama3-8B-DPO",
        "--reward.model_name_or_path": "RTO-RL/Llama3.2-1B-RewardModel",
    }
    if "--actor.model_name_or_path" in words:
        at = words.index("--actor.model_name_or_path")
        given["--actor.model_name_or_path"] = words[at + 1]
        del words[at : at + 2]
    for flag, model in given.items():
        words += [flag, models[model]]
    return main([name, *words])


def test_the_page_has_tables() -> None:
    assert len(TOLD) == 4
    assert sum(len(table) for _, each in TOLD for table in each) > 15


@pytest.mark.parametrize(("command", "told"), TOLD, ids=range(len(TOLD)))
def test_a_table_is_what_its_command_prints(
    command: str,
    told: list[Table],
    models: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "240")
    assert run(command, models) == 0
    printed = list(tables(capsys.readouterr().out, "│"))
    for table in told:
        columns = table[0].keys()
        able = [
            [{name: row[name] for name in columns} for row in each]
            for each in printed
            if columns <= each[0].keys()
        ]
        assert table in able, f"{command} prints {able}"


def test_a_70b_policy_is_refused(
    models: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = next(each for each, _ in PARTS if "70B" in each)
    assert run(command, models) == 2
    assert "does not fit 4x8xA100-80" in capsys.readouterr().err
