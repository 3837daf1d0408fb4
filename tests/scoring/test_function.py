from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from rto.errors import RewardProtocolError, Terminated, UserError
from rto.scoring.function import RewardFunction

TEXTS = (["p1 a", "p2 bb", "p3 ccc"], ["p1", "p2", "p3"], ["x", None, "z"])


def write(folder: Path, body: str) -> RewardFunction:
    path = folder / "reward_func.py"
    path.write_text(f"def reward_func(queries, prompts, labels):\n    {body}\n")
    return RewardFunction(str(path))


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
    assert str(function.path) in str(caught.value)


def test_tells_path_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "return [0.0]")
    monkeypatch.chdir(tmp_path)
    function = RewardFunction("reward_func.py")
    path = (tmp_path / "reward_func.py").resolve()
    assert function.path == path
    assert function.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(function) == f"{path} (sha256 {function.sha256})"
    assert not (tmp_path / "__pycache__").exists()


def test_dataclasses_in_the_file_work(tmp_path: Path) -> None:
    path = tmp_path / "reward_func.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Rule:\n    weight: float\n"
        "def reward_func(queries, prompts, labels):\n"
        "    return [Rule(2.0).weight for _ in queries]\n"
    )
    assert RewardFunction(str(path))(["q"], ["p"], [None]) == [2.0]


@pytest.mark.parametrize("world_writable", ["file", "folder"])
def test_world_writable_code_is_refused(tmp_path: Path, world_writable: str) -> None:
    write(tmp_path, "return [0.0]")
    path = tmp_path / "reward_func.py"
    target = path if world_writable == "file" else tmp_path
    target.chmod(0o777)
    with pytest.raises(UserError, match="writable by everyone"):
        RewardFunction(str(path))
    target.chmod(0o755)
    RewardFunction(str(path))


def test_a_link_does_not_hide_a_world_writable_file(tmp_path: Path) -> None:
    write(tmp_path, "return [0.0]").path.chmod(0o666)
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "link.py").symlink_to(tmp_path / "reward_func.py")
    with pytest.raises(UserError, match="writable by everyone"):
        RewardFunction(str(tmp_path / "safe" / "link.py"))


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
        ("def f(): raise KeyError('k')\n\nf()\n", ":1: KeyError: 'k'"),
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
    path.write_text(content)
    before = set(sys.modules)
    with pytest.raises(UserError, match=message) as caught:
        RewardFunction(str(path))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert set(sys.modules) == before


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
    path = tmp_path / "reward_func.py"
    path.write_text(content)
    assert RewardFunction(str(path))(*TEXTS) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
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
    assert str(caught.value).startswith(f"{function.path}:2: ")
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
    with pytest.raises(RewardProtocolError, match=":4: OSError: gone"):
        write(tmp_path, body)(*TEXTS)


def test_a_key_press_and_a_signal_are_not_the_functions_fault(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "raise KeyboardInterrupt")(*TEXTS)
    function = write(tmp_path, "from rto.errors import Terminated; raise Terminated(143)")
    with pytest.raises(Terminated):
        function(*TEXTS)


@pytest.mark.parametrize("path", ["https://example.org/f.py", "file:///etc/f.py"])
def test_urls_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="not a URL"):
        RewardFunction(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        RewardFunction(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="no such file"):
        RewardFunction(str(tmp_path))


@pytest.mark.parametrize(
    "attribute",
    ["__signature__ = property(lambda self: 1 / 0)", "__class__ = property(lambda s: 1 / 0)"],
)
def test_an_object_whose_questions_fail_is_refused_by_its_file(
    tmp_path: Path, attribute: str
) -> None:
    file = tmp_path / "rf.py"
    file.write_text(
        f"class A:\n    {attribute}\n    def __call__(self, q, p, l): return [1.0]\n"
        "reward_func = A()\n"
    )
    with pytest.raises(UserError, match=r"rf\.py:2: ZeroDivisionError"):
        RewardFunction(str(file))


def test_a_decorator_that_returns_nothing_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rf.py"
    file.write_text("def d(f): pass\n@d\ndef reward_func(q, p, l): return [1.0]\n")
    with pytest.raises(UserError, match="is no function but a NoneType"):
        RewardFunction(str(file))
