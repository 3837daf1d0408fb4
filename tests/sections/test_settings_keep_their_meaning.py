"""What every setting, flag and example configuration meant before the settings moved between files.

``settings.json`` was written down from that tree: the default of each setting, the settings that
each flag changes, and those that each example configuration changes, by the command that reads it.
A change of one of them is a change for users: it is made here too, on purpose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rto.sections.parse import flat, parse_run
from rto.sections.run_config import RunConfig

FOLDER = Path(__file__).parent
ROOT = Path(__file__).resolve().parents[2]
HELD = json.loads((FOLDER / "settings.json").read_text(encoding="utf-8"))


def changed(command: str, argv: list[str]) -> dict[str, Any]:
    """The settings that are not at their default; a tuple as JSON has it, a list."""
    defaults, found = flat(RunConfig()), flat(parse_run(command, argv).config)
    return json.loads(json.dumps({k: v for k, v in found.items() if v != defaults[k]}))


def test_every_default_is_what_it_was() -> None:
    now = json.loads(json.dumps(flat(RunConfig())))
    assert {name: now.get(name, "is gone") for name in HELD["defaults"]} == HELD["defaults"]


def test_every_flag_sets_what_it_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(HELD["flags"]) > 180
    for command, argv, settings in HELD["flags"]:
        expected = json.loads(json.dumps(settings).replace("CWD", str(tmp_path)))
        found = changed(command, argv)
        assert {name: found.get(name) for name in expected} == expected, argv


@pytest.mark.parametrize("name", HELD["configs"])
def test_every_example_configuration_sets_what_it_did(name: str) -> None:
    path = str(ROOT / "examples" / "configs" / name)
    for command, settings in HELD["configs"][name].items():
        expected = json.loads(json.dumps(settings).replace("CWD", str(Path.cwd())))
        assert changed(command, ["--config", path]) == expected
