"""The reward function in its process, as the driver sees it. What the worker makes of the file and
of what it returns is in test_function_worker.py, hostile functions are in tests/faults."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rto.errors import RewardProtocolError, UserError
from rto.scoring.function import RewardFunction

TEXTS = (["p1 a", "p2 bb", "p3 \udc80"], ["p1", "p2", "p3"], ["x", None, "z"])


def write(folder: Path, body: str, **limits: Any) -> RewardFunction:
    """Of a file whose reward_func has this body from line 5 on; ``calls`` counts across calls."""
    path = folder / "reward_func.py"
    path.write_text(
        "import os, signal, sys, time\n\ncalls = []\ndef reward_func(queries, prompts, labels):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return RewardFunction(str(path), **limits)


def failure(function: RewardFunction) -> str:
    with pytest.raises(RewardProtocolError) as caught:
        function(*TEXTS)
    (line,) = str(caught.value).splitlines()
    return line.removeprefix(str(function.path))


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(process: int) -> bool:
    """Whether it ends soon."""
    for _ in range(100):
        if not is_alive(process):
            return True
        time.sleep(0.05)
    return False


def test_a_process_is_kept_from_call_to_call_and_numbers_arrive_exactly(tmp_path: Path) -> None:
    wanted = [random.Random(7).uniform(-1, 1) * 10**power for power in (-30, 0, 30)]
    function = write(tmp_path, f"calls.append(labels)\nreturn [x * len(calls) for x in {wanted}]")
    assert [float.hex(x) for x in function(*TEXTS)] == [float.hex(x) for x in wanted]
    assert function(*TEXTS) == [2 * x for x in wanted]


def test_queries_prompts_and_labels_arrive_as_they_are(tmp_path: Path) -> None:
    function = write(tmp_path, f"return [float((queries, prompts, labels) == {TEXTS!a})] * 3")
    assert function(*TEXTS) == [1.0, 1.0, 1.0]


def test_an_exception_is_one_line_and_its_traceback_is_printed(tmp_path: Path) -> None:
    printed: list[str] = []
    function = write(
        tmp_path,
        "def score(q): return {}['score']\ncalls.append(0)\n"
        "return [score(q) for q in queries] if len(calls) == 1 else [float(len(calls))] * 3",
        printed=printed.append,
    )
    assert failure(function) == ":5: score: KeyError: 'score'"
    assert "in reward_func\n" in "".join(printed)
    # It keeps what it had: nothing has ended its process.
    assert function(*TEXTS) == [2.0] * 3


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("print('on my way')\nos._exit(0)", ": its process ended with exit code 0; it printed"),
        ("os.kill(os.getpid(), 11)", ":5: reward_func: its process ended with exit code 139"),
        ("os.closerange(3, 200)\nreturn [1.0] * 3", ": its process ended with exit code 1; it"),
    ],
)
def test_an_end_of_the_process_is_one_line_and_the_next_call_starts_another(
    tmp_path: Path, body: str, line: str
) -> None:
    body = f"if os.path.exists('{tmp_path}/again'): return [1.0] * 3\n{body}"
    function = write(tmp_path, body)
    assert failure(function).replace(":6:", ":5:").startswith(line)
    (tmp_path / "again").touch()
    assert function(*TEXTS) == [1.0] * 3


def test_an_endless_call_ends_with_all_that_it_started(tmp_path: Path) -> None:
    body = (
        "import subprocess\n"
        "first = os.fork()\n"
        "if first == 0:\n    os.setsid()\n    time.sleep(600)\n"
        "second = subprocess.Popen(['sleep', '600'], start_new_session=True).pid\n"
        f"open('{tmp_path}/pids', 'w').write(f'{{os.getpid()}} {{first}} {{second}}')\n"
        "while True: pass"
    )
    function = write(tmp_path, body, timeout=1.0)
    said = failure(function)
    assert said.startswith(":12: reward_func: no answer within reward.func_timeout 1 s")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert [pid for pid in pids if not gone(pid)] == []


def test_nothing_that_it_does_reaches_this_process(tmp_path: Path) -> None:
    before = (os.getcwd(), signal.getsignal(signal.SIGTERM), dict(os.environ), random.getstate())
    function = write(
        tmp_path,
        "import random\n"
        "os.chdir('/'); signal.signal(signal.SIGTERM, signal.SIG_IGN); os.environ.clear()\n"
        "random.seed(0); sys.stdout.close(); os.closerange(1, 3); queries.clear()\n"
        "os.fork()\n"
        "return [float(len(sys.stdin.read()))] * 3",
    )
    assert function(*TEXTS) == [0.0] * 3
    assert function(*TEXTS) == [0.0] * 3
    after = (os.getcwd(), signal.getsignal(signal.SIGTERM), dict(os.environ), random.getstate())
    assert after == before


def test_its_memory_is_bounded(tmp_path: Path) -> None:
    function = write(tmp_path, "return [float(len(bytearray(2 << 30)))] * 3", memory_gib=1.0)
    assert "MemoryError" in failure(function)
    assert write(tmp_path, "return [1.0] * 3", memory_gib=1.0)(*TEXTS) == [1.0] * 3


def test_it_has_the_environment_without_the_secrets_of_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("RTO_REWARD_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "MY_SERVER_TOKEN", "JUDGE_KEY")
    for name in names:
        monkeypatch.setenv(name, "planted")
    function = write(
        tmp_path,
        f"return [float(name in os.environ) for name in {names}][-3:]",
        hidden=["MY_SERVER_TOKEN"],
    )
    assert function(*TEXTS) == [0.0, 0.0, 1.0]


def test_what_it_prints_is_passed_on_up_to_a_bound(tmp_path: Path) -> None:
    printed: list[str] = []
    function = write(
        tmp_path,
        "print('first')\nos.system('echo second')\nfor _ in range(90): print('x' * 65536)\n"
        "return [1.0] * 3",
        printed=printed.append,
    )
    assert function(*TEXTS) == [1.0] * 3
    function.close()
    said = "\n".join(printed)
    assert said.index("first") < said.index("second")
    assert len(said) < (5 << 20)
    assert "no more is kept" in printed[-1]


def test_tells_path_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "return [0.0]")
    monkeypatch.chdir(tmp_path)
    function = RewardFunction("reward_func.py")
    path = (tmp_path / "reward_func.py").resolve()
    assert function.path == path
    assert function.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(function) == f"{path} (sha256 {function.sha256})"
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("def reward_fun(a, b, c): ...\n", ": defines no reward_func(queries, prompts, labels)"),
        ("import os\nos._exit(3)\n", ": its process ended with exit code 3"),
        ("\nwhile True: pass\n", ":2: no answer within reward.func_timeout 1 s"),
    ],
)
def test_a_file_that_holds_none_is_one_line(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "f.py"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        RewardFunction(str(path), timeout=1.0)
    assert str(caught.value).startswith(f"reward.func_path {path}{line}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("world_writable", ["file", "folder"])
def test_world_writable_code_is_refused(tmp_path: Path, world_writable: str) -> None:
    path = tmp_path / "reward_func.py"
    path.touch()
    (path if world_writable == "file" else tmp_path).chmod(0o777)
    with pytest.raises(UserError, match="writable by everyone"):
        RewardFunction(str(path))


def test_a_link_does_not_hide_a_world_writable_file(tmp_path: Path) -> None:
    (tmp_path / "reward_func.py").touch()
    (tmp_path / "reward_func.py").chmod(0o666)
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "link.py").symlink_to(tmp_path / "reward_func.py")
    with pytest.raises(UserError, match="writable by everyone"):
        RewardFunction(str(tmp_path / "safe" / "link.py"))


@pytest.mark.parametrize("path", ["https://example.org/f.py", "file:///etc/f.py"])
def test_urls_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="not a URL"):
        RewardFunction(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        RewardFunction(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="no such file"):
        RewardFunction(str(tmp_path))
