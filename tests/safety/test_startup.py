from __future__ import annotations

import pytest

from rto.errors import UserError
from rto.safety import startup


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (startup.INSECURE, startup.AUTH_MODE):
        monkeypatch.delenv(name, raising=False)


def test_an_environment_as_it_should_be_is_silent() -> None:
    assert list(startup.environment()) == []
    startup.refuse_unsafe()


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_insecure_serialization_is_refused_whatever_it_is_set_to(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(startup.INSECURE, value)
    with pytest.raises(UserError, match=f"{startup.INSECURE} is set: unset it"):
        startup.refuse_unsafe()


@pytest.mark.parametrize(
    ("version", "refused"),
    [("2.58.9", True), ("2.9.0", True), ("1.99.0", True), ("2.59.0", False), ("3.0.0rc1", False)],
)
def test_an_older_ray_is_refused(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "version", {"ray": version}.get)
    assert [str(each) for each in startup.environment()] == [
        f"Ray {version} lets everyone who reaches its ports run code: install 2.59 or newer"
    ] * refused


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:6379", True),
        ("127.8.9.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("::1", True),
        ("10.0.0.1:6379", False),
        ("0.0.0.0:6379", False),
        ("[fe80::1]:6379", False),
        ("head.cluster:6379", False),
        ("ray://127.0.0.1:10001", True),
        ("ray://head:10001", False),
        ("127.0.0.1.example.com:6379", False),
        ("", False),
    ],
)
def test_without_a_token_only_loopback_is_joined(
    address: str, loopback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert startup.is_loopback(address) is loopback
    startup.check_authenticated(address)
    monkeypatch.setenv(startup.AUTH_MODE, "Disabled")
    if loopback:
        startup.check_authenticated(address)
    else:
        with pytest.raises(UserError, match="RAY_AUTH_MODE is disabled and .* not on loopback"):
            startup.check_authenticated(address)
