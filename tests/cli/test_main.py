"""Exit codes and messages of the program."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rto
from rto.cli.main import COMMANDS, Command, main, parse
from rto.errors import UserError

FAILING = """
from rto import errors

def fail(argv):
    raise vars(errors)[argv[0]]("what happened")

def interrupt(argv):
    raise KeyboardInterrupt

def break_down(argv):
    raise ZeroDivisionError

def succeed(argv):
    return len(argv)
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_commands.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("fail", "interrupt", "break_down", "succeed"):
        monkeypatch.setitem(COMMANDS, name, Command("", f"failing_commands:{name}"))


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name} " not in said] == []


@pytest.mark.parametrize("command", COMMANDS.values())
def test_every_command_has_a_function(command: Command) -> None:
    module, _, function = command.target.partition(":")
    assert callable(vars(importlib.import_module(module))[function])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "rto: unknown command 'trian': did you mean train?"),
        (["xyz"], "rto: unknown command 'xyz': one of sft, reward, dpo"),
        (["--algo", "rto"], "rto: unknown command '--algo'"),
        (
            ["train", "--algo", "rto", "--dpo_reward_scal", "0.1"],
            "rto: unknown flag --dpo_reward_scal: did you mean --dpo_reward_scale?",
        ),
        (["sft", "--config", "none.yaml"], "rto: --config none.yaml: no such file"),
        (["generate"], "rto: no model: give --model RUN_OR_HF_DIR"),
        (["serve-reward", "--prot", "1"], "rto: serve-reward: unknown argument --prot: did you"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(said)
    assert output.err.count("\n") == 1


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("UserError", 2),
        ("ProofError", 70),
        ("TrainingDiverged", 70),
        ("ActorLost", 75),
        ("RewardProtocolError", 76),
    ],
)
def test_each_error_has_its_code(error: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", error]) == code
    assert capsys.readouterr().err == "rto: what happened\n"


@pytest.mark.usefixtures("commands")
def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["interrupt"]) == 130
    assert capsys.readouterr().err == "rto: interrupted\n"


@pytest.mark.usefixtures("commands")
def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main(["break_down"])


@pytest.mark.usefixtures("commands")
def test_a_commands_result_is_the_exit_code() -> None:
    assert main(["succeed"]) == 0
    assert main(["succeed", "a", "b"]) == 2


def test_parse_checks_a_run_and_starts_nothing() -> None:
    parse(["train", "--algo", "rto", "--train.max_steps", "2"])
    with pytest.raises(UserError, match="did you mean --train.max_steps"):
        parse(["train", "--train.max_step", "2"])
    with pytest.raises(UserError, match="unknown command"):
        parse(["tran"])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rto {rto.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "title"),
    [
        (["generate", "--model", "org/model", "--prompt", "x"], "rto generate: org/model\n"),
        (["eval", "--model", "org/model", "--prompts", "p.json"], "rto eval: model\n"),
    ],
)
def test_the_title_stands_before_what_takes_long(
    argv: list[str], title: str, tmp_path: Path
) -> None:
    """Stand-ins for the libraries that take seconds to import end the program."""
    for name in ("torch", "transformers", "datasets", "ray", "vllm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    done = subprocess.run(
        [sys.executable, "-m", "rto.cli.main", *argv],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, title, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["runs", "n" * 300],
        ["report", ".", "--output", "n" * 300],
        ["serve-reward", "--func_path", "n" * 300],
        ["train", "--reward.func_path", "n" * 300],
        ["sft", "--actor.model_name_or_path", "n" * 300],
        ["runs", ""],
        ["report", ""],
    ],
)
def test_a_path_that_can_be_none_is_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "File name too long" in said or "names nothing" in said


HANGING = """
import sys, threading, time
from rto.cli import main
main.LINGER_SECONDS = 0.1
main.main = lambda: int(sys.argv[1])
threading.Thread(target=time.sleep, args=(float(sys.argv[2]),)).start()
main.program()
"""


@pytest.mark.parametrize(("code", "seconds"), [(75, 60), (0, 0.5)])
def test_a_thread_that_waits_keeps_no_command_that_failed(code: int, seconds: float) -> None:
    """One that has done its work waits for it, as for a writer of results."""
    line = [sys.executable, "-c", HANGING, str(code), str(seconds)]
    assert subprocess.run(line, timeout=50).returncode == code
