"""Arguments of `rto serve-reward`; the server itself is tested with rto.scoring.server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rto.cli.serve import main, parse
from rto.errors import UserError


def test_defaults_are_loopback_and_the_pipelines_token_variable() -> None:
    assert vars(parse(["--reward_model", "dir"])) == {
        "reward_model": "dir",
        "func_path": None,
        "host": "127.0.0.1",
        "port": 5000,
        "token_env": "RTO_REWARD_TOKEN",
        "max_batch": 64,
        "max_len": None,
        "workers": 1,
        "timeout": 60,
    }


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "nothing to serve: give --reward_model or --func_path"),
        (["--reward_model", "d", "--func_path", "f"], "not allowed with"),
        (["--reward_modle", "d"], "unknown argument --reward_modle: did you mean --reward_model?"),
        (["--func_path", "f", "--zzz"], "unknown argument --zzz"),
        (
            ["--func_path", "f", "--port", "http"],
            "argument --port: 'http': a whole number from 1 to 65535",
        ),
        (
            ["--func_path", "f", "--port", "70000"],
            "argument --port: '70000': a whole number from 1 to 65535",
        ),
        (
            ["--func_path", "f", "--port", "-1"],
            "argument --port: '-1': a whole number from 1 to 65535",
        ),
        (
            ["--func_path", "f", "--port", "0"],
            "argument --port: '0': a whole number from 1 to 65535",
        ),
        (["--reward_model", "d", "--max_batch", "0"], "argument --max_batch: '0': a whole number"),
        (["--func_path", "f", "--max_batch", "4"], "--max_batch is for --reward_model"),
        (
            ["--reward_model", "d", "--max_len", "1"],
            "argument --max_len: '1': a whole number from 2",
        ),
        (["--func_path", "f", "--max_len", "9"], "--max_len is for --reward_model"),
        (["--reward_model", "d", "--workers", "2"], "--workers is for --func_path"),
        (["--func_path", "f", "--workers", "0"], "argument --workers: '0': a whole number from 1"),
        (["--func_path", "f", "--timeout", "1.5"], "argument --timeout: '1.5': a whole number"),
        (["--func_path", "none.py"], "--func_path none.py: no such file"),
        (["--func_path"], "argument --func_path: expected one argument"),
    ],
)
def test_a_wrong_argument_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        main(argv)
    assert str(caught.value).startswith("serve-reward: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a b", "x" * 300, "\0"])
def test_a_host_that_cannot_be_listened_on_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("RTO_REWARD_TOKEN", "t")
    file = tmp_path / "f.py"
    file.touch()
    with pytest.raises(UserError, match="cannot listen on") as caught:
        main(["--func_path", str(file), "--host", host])
    assert len(str(caught.value).splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "f.py"
    file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"port {port} .*Address already in use"):
            main(["--func_path", str(file), "--port", port])
