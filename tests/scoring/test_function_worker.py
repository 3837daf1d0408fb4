"""What the worker makes of a file and of what it returns, in this process: the same code runs in
that of the function (tests/scoring/test_function.py)."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rto.errors import RewardProtocolError, UserError
from rto.scoring.function_worker import LENGTH, Answers, frame, received

TEXTS = (["p1 a", "p2 bb", "p3 ccc"], ["p1", "p2", "p3"], ["x", None, "z"])


@pytest.fixture(autouse=True)
def _own_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def load(path: Path, content: str) -> Callable[..., list[float]]:
    """The function of a file with this content."""
    path.write_text(content)
    answers, code = Answers(), path.read_bytes()
    about = {"path": str(path), "sha256": hashlib.sha256(code).hexdigest(), "memory": None}
    assert answers.to({**about, "code": code.decode("latin-1")}) == []

    def ask(queries: object, prompts: object, labels: object) -> list[float]:
        return answers.to({"queries": queries, "prompts": prompts, "labels": labels})

    return ask


def write(folder: Path, body: str) -> Callable[..., list[float]]:
    text = f"def reward_func(queries, prompts, labels):\n    {body}\n"
    return load(folder / "reward_func.py", text)


@pytest.mark.parametrize(
    "body",
    [
        "return [len(q) for q in queries]",
        "return tuple(float(len(q)) for q in queries)",
        "import torch; return torch.tensor([len(q) for q in queries])",
        "import torch; return [torch.tensor(len(q)) for q in queries]",
        "import numpy; return numpy.array([len(q) for q in queries], dtype='float32')",
        "r = [len(q) for q in queries]; return {'rewards': r, 'scores': r, 'extra_logs': {'n': r}}",
        "import torch; return {'rewards': torch.tensor([len(q) for q in queries]).bfloat16()}",
    ],
)
def test_every_form_of_the_contract(tmp_path: Path, body: str) -> None:
    rewards = write(tmp_path, body)(*TEXTS)
    assert rewards == [4.0, 5.0, 6.0]
    assert all(type(reward) is float for reward in rewards)


def test_arguments_arrive_in_openrlhf_order(tmp_path: Path) -> None:
    body = (
        "return [q.startswith(p) + 2.0 * (y is None) for q, p, y in zip(queries, prompts, labels)]"
    )
    assert write(tmp_path, body)(*TEXTS) == [1.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0, 2.0]", "2 rewards for 3 responses"),
        ("return [1.0, float('nan'), float('inf')]", r"rewards\[1\] is nan"),
        ("return [1.0, 2.0, -1e39]", r"rewards\[2\] is float -1e\+39, not finite"),
        ("return [1.0, None, 2.0]", r"rewards\[1\] is NoneType None, not a number"),
        ("return [1.0, 2.0, '3.0']", r"rewards\[2\] is str '3.0', not a number"),
        ("return [True, 2.0, 3.0]", r"rewards\[0\] is bool True, not a number"),
        ("import torch; return torch.ones(3, 1)", r"rewards\[0\] is list, not a number"),
        ("return 0.5", "rewards is float 0.5, expected a list of 3"),
        ("return None", "rewards is NoneType None, expected a list of 3"),
        ("return {'scores': [1, 2, 3]}", "a mapping without 'rewards'"),
    ],
)
def test_bad_answers_name_the_first_bad_item(tmp_path: Path, body: str, message: str) -> None:
    function = write(tmp_path, body)
    with pytest.raises(RewardProtocolError, match=message) as caught:
        function(*TEXTS)
    assert str(tmp_path / "reward_func.py") in str(caught.value)


def test_dataclasses_in_the_file_work(tmp_path: Path) -> None:
    content = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Rule:\n    weight: float\n"
        "def reward_func(queries, prompts, labels):\n"
        "    return [Rule(2.0).weight for _ in queries]\n"
    )
    assert load(tmp_path / "reward_func.py", content)(["q"], ["p"], [None]) == [2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("reward = 1\n", "no reward_func"),
        ("def reward_fun(a, b, c): ...\n", "no reward_func.*: rename reward_fun"),
        ("\nreward_func = 3\n", ":2: reward_func is no function but a int"),
        ("def reward_func(:\n", ":1: SyntaxError: invalid syntax"),
        ("x = '\\0\n", ":1: SyntaxError"),
        ("\nimport no_such_module_here\n", ":2: ModuleNotFoundError: No module named"),
        ("\n\nraise RuntimeError('a\\nb')\n", ":3: RuntimeError: a"),
        ("x = 1 / 0\n", ":1: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", ":2: SystemExit: 0"),
        ("def f(): raise KeyError('k')\n\nf()\n", ":1: f: KeyError: 'k'"),
        ("class Odd(BaseException): ...\nraise Odd\n", ":2: Odd"),
        ("async def reward_func(q, p, l): ...\n", ":1: reward_func is async"),
        ("async def reward_func(q, p, l): yield 1\n", ":1: reward_func is async"),
        ("def reward_func(q, p, l): yield 1\n", ":1: reward_func yields"),
        ("\nclass reward_func: ...\n", ":2: reward_func is a class"),
        ("\ndef reward_func(q): ...\n", r":2: .*cannot be called with .*too many positional"),
        ("def reward_func(q, p, l, more): ...\n", ":1: .*missing a required argument: 'more'"),
        ("def reward_func(*, queries, prompts, labels): ...\n", ":1: .*too many positional"),
        ("class F:\n  async def __call__(self, q, p, l): ...\nreward_func = F()\n", ":3: .*async"),
    ],
)
def test_files_that_are_no_reward_function(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "reward_func.py"
    with pytest.raises(UserError, match=message) as caught:
        load(path, content)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "class F:\n  def __call__(self, q, p, l): return [1.0] * len(q)\nreward_func = F()\n",
        "import functools\ndef f(x, q, p, l): return [x] * len(q)\n"
        "reward_func = functools.partial(f, 1.0)\n",
        "reward_func = lambda *lists: [1.0] * len(lists[0])\n",
        "def reward_func(queries, prompts, labels, **more): return [1.0] * len(queries)\n",
    ],
)
def test_whatever_takes_three_lists_is_a_reward_function(tmp_path: Path, content: str) -> None:
    assert load(tmp_path / "reward_func.py", content)(*TEXTS) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("from rto.errors import Terminated; raise Terminated(143)", "Terminated"),
        ("return [{}['score'] for q in queries]", "KeyError: 'score'"),
        ("return [next(iter(())) for q in queries]", "StopIteration"),
        ("raise ValueError('first\\nsecond')", "ValueError: first$"),
        ("return reward_func(queries, prompts, labels)", "RecursionError"),
        ("raise BaseException('odd')", "BaseException: odd"),
    ],
)
def test_what_the_function_raises_is_one_line(tmp_path: Path, body: str, message: str) -> None:
    function = write(tmp_path, body)
    with pytest.raises(RewardProtocolError, match=message) as caught:
        function(*TEXTS)
    assert str(caught.value).startswith(f"{tmp_path / 'reward_func.py'}:2: reward_func: ")
    assert len(str(caught.value).splitlines()) == 1


def test_an_answer_that_raises_when_it_is_read_is_one_line(tmp_path: Path) -> None:
    body = (
        "import collections.abc as c\n"
        "    class Odd(c.Mapping):\n"
        "        def __getitem__(self, key): raise OSError('gone')\n"
        "        def __iter__(self): return iter(())\n"
        "        def __len__(self): return 0\n"
        "        def __contains__(self, key): return True\n"
        "    return Odd()"
    )
    with pytest.raises(RewardProtocolError, match=":4: __getitem__: OSError: gone"):
        write(tmp_path, body)(*TEXTS)


@pytest.mark.parametrize(
    "attribute",
    ["__signature__ = property(lambda self: 1 / 0)", "__class__ = property(lambda s: 1 / 0)"],
)
def test_an_object_whose_questions_fail_is_refused_by_its_file(
    tmp_path: Path, attribute: str
) -> None:
    content = (
        f"class A:\n    {attribute}\n    def __call__(self, q, p, l): return [1.0]\n"
        "reward_func = A()\n"
    )
    with pytest.raises(UserError, match=r"rf\.py:2: ZeroDivisionError"):
        load(tmp_path / "rf.py", content)


def test_a_decorator_that_returns_nothing_is_told(tmp_path: Path) -> None:
    content = "def d(f): pass\n@d\ndef reward_func(q, p, l): return [1.0]\n"
    with pytest.raises(UserError, match="is no function but a NoneType"):
        load(tmp_path / "rf.py", content)


def test_what_is_sent_is_read_whole_and_exactly() -> None:
    numbers = [0.1, -0.0, 5e-324, 3.4028234663852886e38, 1 / 3]
    here, there = socket.socketpair()
    with here, there:
        sender = io.BytesIO(frame({"rewards": numbers, "text": "\udc80"}))
        here.sendall(sender.read(3))
        here.sendall(sender.read())
        got = received(there)
        here.close()
        assert received(there) is None
    assert got is not None
    assert [float.hex(x) for x in got["rewards"]] == [float.hex(x) for x in numbers]
    assert got["text"] == "\udc80"


def test_a_frame_says_its_length() -> None:
    content = frame({"a": 1})
    assert LENGTH.unpack(content[: LENGTH.size]) == (len(content) - LENGTH.size,)
    assert json.loads(content[LENGTH.size :]) == {"a": 1}
