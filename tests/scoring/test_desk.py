from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fastapi import HTTPException, Request

from rto.scoring.desk import Desk, check_sender


def source(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> list[float]:
    return [0.0] * len(queries)


def request(**headers: str) -> Request:
    given = {"host": "127.0.0.1:5000", "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [(name.encode(), value.encode()) for name, value in given.items() if value]
    return Request({"type": "http", "headers": lines})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost"},
        {"host": "[::1]:5000"},
        {"host": "127.8.9.1:80"},
        {"content_type": "Application/JSON; charset=utf-8"},
        {"origin": "http://127.0.0.1:5000"},
    ],
)
def test_programs_of_this_machine_are_answered(headers: dict[str, str]) -> None:
    check_sender(request(**headers), None)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:5000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "192.168.1.7:5000"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": ""}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": ""}, 415),
    ],
)
def test_pages_of_a_browser_are_not(headers: dict[str, str], code: int) -> None:
    with pytest.raises(HTTPException) as caught:
        check_sender(request(**headers), None)
    assert caught.value.status_code == code


def test_with_a_token_the_machine_may_have_any_name() -> None:
    check_sender(request(host="scores.example", authorization="Bearer right"), "right")
    for wrong in ("Bearer wrong", "right", "", "Bearer \u00e9"):
        with pytest.raises(HTTPException) as caught:
            check_sender(request(authorization=wrong), "right")
        assert caught.value.status_code == 401
    with pytest.raises(HTTPException) as caught:
        check_sender(request(origin="http://evil.example", authorization="Bearer right"), "right")
    assert caught.value.status_code == 403


def test_turns_are_taken_by_as_many_as_there_are_sources() -> None:
    async def run() -> int:
        desk, inside, most = Desk([source, source]), 0, 0

        async def one() -> None:
            nonlocal inside, most
            async with desk.turn():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(one())
        return most

    assert asyncio.run(run()) == 2


async def refused(desk: Desk) -> HTTPException:
    with pytest.raises(HTTPException) as caught:
        async with desk.turn():
            pytest.fail("there is no place")
    return caught.value


def test_a_line_that_is_full_and_a_wait_that_is_long_are_told_to_come_later() -> None:
    async def run() -> tuple[HTTPException, HTTPException]:
        desk = Desk([source], waiting=1, patience=0.2)
        async with desk.turn():
            waits = asyncio.create_task(refused(desk))
            await asyncio.sleep(0)
            full = await refused(desk)
            late = await waits
        async with desk.turn():
            return full, late

    full, late = asyncio.run(run())
    assert (full.status_code, late.status_code) == (503, 503)
    assert full.headers == late.headers == {"Retry-After": "1"}
    assert (full.detail, late.detail) == (
        "busy: 1 requests wait already",
        "busy: no turn within 0.2 s",
    )


def test_a_source_that_fails_is_free_again() -> None:
    async def run() -> None:
        desk = Desk([source], patience=1.0)
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                async with desk.turn():
                    raise ValueError("broken")

    asyncio.run(run())
