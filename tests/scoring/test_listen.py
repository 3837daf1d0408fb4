"""Where a reward server listens, and who may ask it."""

from __future__ import annotations

import socket

import pytest

from rto.errors import UserError
from rto.scoring.listen import is_loopback, open_listener


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "reward.example"])
def test_open_hosts_need_a_token(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("REWARD_TEST_TOKEN", "")
    with pytest.raises(UserError, match="REWARD_TEST_TOKEN is not set"):
        open_listener(host, 5000, token_env="REWARD_TEST_TOKEN")


def test_a_listener_with_a_token_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TEST_TOKEN", "planted")
    listener = open_listener("localhost", 0, token_env="REWARD_TEST_TOKEN")
    listener.socket.close()
    assert listener.token == "planted"
    assert listener.about == "localhost:0, bearer token required"
    assert "planted" not in repr(listener)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
        ("0.0.0.0", False), ("10.0.0.1", False), ("localhost.example", False),
    ],
)  # fmt: skip
def test_which_hosts_this_machine_alone_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_on_this_machine_no_token_is_needed_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REWARD_TEST_TOKEN", raising=False)
    listener = open_listener("127.0.0.1", 0, token_env="REWARD_TEST_TOKEN")
    with listener.socket:
        assert listener.token is None
        assert listener.about == "127.0.0.1:0, no bearer token (REWARD_TEST_TOKEN is not set)"
        assert listener.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            open_listener("127.0.0.1", port, token_env="REWARD_TEST_TOKEN")
    assert f"cannot listen on '127.0.0.1' port {port}" in str(caught.value)
    assert "\n" not in str(caught.value)
