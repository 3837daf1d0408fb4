"""The process itself: how it ends with the driver, and what it refuses to believe."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rto.scoring import function_process
from rto.scoring.function_process import FunctionEnded, FunctionProcess

CODE = "def reward_func(queries, prompts, labels):\n    "


def started(path: Path, body: str) -> FunctionProcess:
    process = FunctionProcess(str(path), hidden=[], printed=lambda text: None)
    about = {"path": str(path), "sha256": "0" * 64, "memory": None, "code": CODE + body, "call": 0}
    assert process.ask(about, timeout=60, count=0) == {"call": 0, "rewards": []}
    return process


def ask(process: FunctionProcess, timeout: float = 60) -> dict[str, object]:
    texts = {"queries": ["q"], "prompts": ["p"], "labels": [None]}
    return process.ask({**texts, "call": 1}, timeout=timeout, count=1)


@pytest.mark.parametrize(
    ("junk", "said"),
    [
        (b"\xff" * 64, "in place of an answer"),
        (b"\0" * 7 + b"\2[]", "in place of an answer"),
        (b"\0" * 7 + b"\4nope", "in place of an answer"),
    ],
)
def test_what_is_no_answer_ends_it(tmp_path: Path, junk: bytes, said: str) -> None:
    process = started(tmp_path / "f.py", f"{_write(junk)}; return [1.0]")
    with pytest.raises(FunctionEnded, match=said):
        ask(process)


def _write(junk: bytes) -> str:
    """To every socket that is open."""
    return (
        "import os, stat; [os.write(fd, "
        f"{junk!r}) for fd in range(3, 20) if os.path.exists(f'/proc/self/fd/{{fd}}') "
        "and stat.S_ISSOCK(os.fstat(fd).st_mode)]"
    )


def test_a_stopped_process_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_process, "STOP", 2.0)
    process = started(tmp_path / "f.py", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    with pytest.raises(FunctionEnded):
        ask(process, timeout=0.5)


def test_it_ends_when_the_driver_is_killed(tmp_path: Path) -> None:
    driver = textwrap.dedent(f"""
        import sys
        from rto.scoring.function import RewardFunction
        RewardFunction({str(tmp_path / "f.py")!r})(["q"], ["p"], [None])
    """)
    (tmp_path / "f.py").write_text(
        f"{CODE}import os; open('{tmp_path}/pid', 'w').write(str(os.getpid()))\n"
        "    while True: pass\n"
    )
    running = subprocess.Popen([sys.executable, "-c", driver])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    worker = Path(f"/proc/{(tmp_path / 'pid').read_text()}")
    for _ in range(100):
        if not worker.exists():
            return
        time.sleep(0.05)
    pytest.fail("the function goes on")
