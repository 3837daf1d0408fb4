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

from rto.sections.methods import Algo, installed
from rto.sections.names import canonical, owners
from rto.sections.parse import flat, parse_run
from rto.sections.run_config import RunConfig

FOLDER = Path(__file__).parent
ROOT = Path(__file__).resolve().parents[2]
HELD = json.loads((FOLDER / "settings.json").read_text(encoding="utf-8"))


FORMER_LOSS = "preference.loss"


def meaning(config: RunConfig, name: str) -> Any:
    """The value that a setting of then has now; a tuple as JSON has it, a list."""
    if name == FORMER_LOSS:
        return config.algo.name
    now = canonical(name, config.algo.name)
    return json.loads(json.dumps(flat(config)[str(now)]))


def test_every_default_is_what_it_was() -> None:
    """Null stood for the method's own, which is now the default of the method's setting."""
    configs = {name: RunConfig(algo=Algo(name)) for name in installed().methods}
    assert len(HELD["defaults"]) > 180
    for name, value in HELD["defaults"].items():
        own = owners(name)
        those = [config for method, config in configs.items() if own is None or method in own]
        assert those or name == FORMER_LOSS, name
        if own is None and name not in ("algo.name", FORMER_LOSS):
            assert meaning(RunConfig(), name) == value, name
        elif own is not None and value is not None:
            assert [meaning(config, name) for config in those] == [value] * len(those), name


def test_the_choice_of_a_method_is_what_it_was() -> None:
    assert RunConfig().algo.name == HELD["defaults"]["algo.name"]
    assert parse_run("dpo", []).config.algo.name == HELD["defaults"][FORMER_LOSS]


def assert_means(command: str, argv: list[str], settings: dict[str, Any]) -> None:
    config = parse_run(command, argv).config
    assert {name: meaning(config, name) for name in settings} == settings, argv


def test_every_flag_sets_what_it_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(HELD["flags"]) > 180
    for command, argv, settings in HELD["flags"]:
        if argv[0] == "--algo.name":  # Then with the name of no method, which is refused now.
            continue
        assert_means(command, argv, json.loads(json.dumps(settings).replace("CWD", str(tmp_path))))


@pytest.mark.parametrize("name", HELD["configs"])
def test_every_example_configuration_sets_what_it_did(name: str) -> None:
    path = str(ROOT / "examples" / "configs" / name)
    for command, settings in HELD["configs"][name].items():
        if command == "fit" and settings.get("algo.name") == "rto":
            continue  # `rto fit` refuses the method, and its settings mean nothing there.
        expected = json.loads(json.dumps(settings).replace("CWD", str(Path.cwd())))
        assert_means(command, ["--config", path], expected)
