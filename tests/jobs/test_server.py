from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from job_server import Jobs
from ray.exceptions import AuthenticationError

from rto.errors import UserError
from rto.jobs import server as module
from rto.jobs.server import answers, command, connect, find, parser, run_script


def test_a_job_is_found_by_its_id(server: Jobs) -> None:
    server.add("raysubmit_1", "RUNNING", {})
    client = connect(server.address)
    assert find(client, "raysubmit_1").status.value == "RUNNING"
    with pytest.raises(UserError, match=r"no job 'raysubmit_2': python .*status.* lists those"):
        find(client, "raysubmit_2")


def test_other_refusals_pass_as_they_are(server: Jobs) -> None:
    client = connect(server.address)
    with pytest.raises(RuntimeError, match="the head is out of order"):
        find(client, "broken")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ConnectionError("x"), "no Ray job server at http://h:1: start one"),
        (AuthenticationError("bad\ntoken"), "http://h:1 refused the token: bad token"),
        (RuntimeError("status code 500: a\nb"), "http://h:1 refused the request: status code 500"),
        (UserError("ours"), "ours"),
    ],
)
def test_what_a_server_refuses_is_one_line(raised: Exception, said: str) -> None:
    with pytest.raises(UserError) as refused, answers("http://me:planted@h:1"):
        raise raised
    assert said in str(refused.value).replace("***@", "")
    assert "planted" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_no_matter_of_the_server() -> None:
    with pytest.raises(FileNotFoundError), answers("http://h"):
        Path("/nosuch").read_text()


def test_nothing_answers_and_no_such_kind_of_server() -> None:
    with pytest.raises(UserError, match="no Ray job server at http://127.0.0.1:1"):
        connect("http://127.0.0.1:1")
    with pytest.raises(UserError, match="refused the request"):
        connect("ftp://127.0.0.1:1")


def test_a_script_is_called_as_it_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("stop", "raysubmit_1") == "python ray_jobs/stop.py raysubmit_1"
    monkeypatch.setattr(module, "IS_CHECKOUT", False)
    assert command("stop") == "python -m rto.shipped.ray_jobs.stop"


def test_the_address_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parser("x").parse_args([]).address == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:1")
    assert parser("x").parse_args([]).address == "http://head:1"
    assert parser("x").parse_args(["--address", "http://b"]).address == "http://b"


def run(raised: BaseException | None, *argv: str) -> tuple[int, list[list[str]]]:
    seen: list[list[str]] = []

    def script(options: argparse.Namespace, overrides: list[str]) -> int:
        seen.append(overrides)
        if raised is not None:
            raise raised
        return 3

    return run_script("name", parser("x"), script, argv, left=": left"), seen


def test_a_script_gets_what_stands_behind_the_dashes() -> None:
    assert run(None, "--address", "b", "--", "--a", "--", "c") == (3, [["--a", "--", "c"]])
    assert run(None) == (3, [[]])


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("a\nb api_key=planted"), 2, "name: a b api_key=***\n"),
        (FileNotFoundError(2, "gone", "f"), 2, "name: 'f': gone: give another path\n"),
        (KeyboardInterrupt(), 130, "\nname: interrupted: left\n"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    assert run(raised)[0] == code
    assert capsys.readouterr().err == said


def test_an_error_of_the_system_without_a_file_is_not_hidden() -> None:
    with pytest.raises(OSError, match="odd"):
        run(OSError("odd"))


def test_an_unknown_flag_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, "--adress", "x") == (2, [])
    assert "did you mean --address?" in capsys.readouterr().err
