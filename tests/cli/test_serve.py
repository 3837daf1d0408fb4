"""Arguments of `rto serve-reward`; the server itself is tested with rto.scoring.server."""

from __future__ import annotations

import inspect

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
    }


def test_arguments_are_those_of_the_server() -> None:
    from rto.scoring.server import serve

    assert set(vars(parse(["--func_path", "f.py"]))) == set(inspect.signature(serve).parameters)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "nothing to serve: give --reward_model or --func_path"),
        (["--reward_model", "d", "--func_path", "f"], "not allowed with"),
        (["--reward_modle", "d"], "unknown argument --reward_modle: did you mean --reward_model?"),
        (["--func_path", "f", "--zzz"], "unknown argument --zzz"),
        (["--func_path", "f", "--port", "http"], "argument --port: 'http': a whole number"),
        (["--func_path"], "argument --func_path: expected one argument"),
    ],
)
def test_a_wrong_argument_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        main(argv)
    assert str(caught.value).startswith("serve-reward: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
