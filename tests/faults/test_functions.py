"""S5: hostile reward functions. Each ends within its deadline, reaches nothing of the driver and
leaves no process behind."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rto.errors import RewardProtocolError
from rto.scoring import function_process
from rto.scoring.function import RewardFunction

TIMEOUT = 2.0
SLACK = 15.0
"""Seconds to start an interpreter, and to end what does not end by itself, on a loaded machine."""
MARK = "RTO_HOSTILE_FUNCTION"
QUERIES = ["ask a", "ask bb", "ask ccc"]
GOOD = [5.0, 6.0, 7.0]
HEAD = f"""
import atexit, ctypes, faulthandler, gc, json, os, random, re, resource, signal, socket, stat
import subprocess, sys, threading, time
calls = []
def give(): return [float(len(q)) for q in QUERIES]
QUERIES = {QUERIES}
def reward_func(queries, prompts, labels):
    calls.append(1)
"""

FAILS: dict[str, str] = {
    "sys.exit(0)": "sys.exit(0)",
    "sys.exit of text": "sys.exit('no more')",
    "os._exit(0)": "os._exit(0)",
    "os._exit(7)": "os._exit(7)",
    "os.abort": "os.abort()",
    "reads address 0": "ctypes.string_at(0)",
    "kills itself": "os.kill(os.getpid(), signal.SIGKILL)",
    "kills its watcher": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "endless loop": "while True: pass",
    "sleeps": "time.sleep(600)",
    "9**9**9": "9**9**9**9",
    "a regular expression": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "waits for a lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "waits for a process": "subprocess.run(['sleep', '600'])",
    "waits for a socket": "socket.create_server(('127.0.0.1', 0)).accept()",
    "memory": "return [bytearray(1 << 28) for _ in range(99)]",
    "recursion": "return reward_func(queries, prompts, labels)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "next(iter(()))",
    "BaseException": "raise BaseException('odd')",
    "error whose text fails": "class E(Exception):\n def __str__(s): sys.exit(0)\nraise E",
    "error of 100 MB": "raise ValueError('x' * (100 << 20))",
    "asks the terminal": "input()",
    "debugger": "breakpoint(); return [0.0] * 3",
    "generator": "return (x for x in give())",
    "mapping that lies": "import collections\nclass M(collections.UserDict):\n"
    " def __contains__(s, k): os._exit(0)\nreturn M()",
    "number that lies": "class F(float):\n def __float__(s): raise KeyError('f')\n"
    "return [F(1)] * 3",
    "list that lies": "import collections\nclass L(collections.UserList):\n"
    " def __len__(s): return 3\nreturn L()",
    "endless list": "class L(list):\n def __iter__(s):\n  while True: yield 1.0\nreturn L()",
    "NaN": "return [1.0, float('nan'), 2.0]",
    "missing module": "import no_such_module",
    "closes every file": "os.closerange(0, 256); return give()",
    "writes to every socket": "for fd in range(3, 99):\n try:\n"
    "  if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, b'\\xff' * 99)\n"
    " except OSError: continue\nreturn give()",
    "answers for the driver": "for fd in range(3, 99):\n try:\n"
    "  if stat.S_ISSOCK(os.fstat(fd).st_mode):\n"
    "   body = json.dumps({'call': 0, 'rewards': [9.0] * 3}).encode()\n"
    "   os.write(fd, len(body).to_bytes(8, 'big') + body)\n"
    " except OSError: continue\nreturn give()",
    "no stack to tell of": "faulthandler.disable(); signal.signal(signal.SIGABRT, "
    "signal.SIG_IGN)\nwhile True: pass",
    "endless with children": "for _ in range(20):\n if os.fork() == 0: os.setsid(); "
    "time.sleep(600)\nwhile True: pass",
}
"""These end as one line."""

GIVES: dict[str, str] = {
    "prints 200 MB": "for _ in range(200): print('x' * (1 << 20))\nreturn give()",
    "terminal codes": "print('\\x1b[2J\\x1b]0;owned\\x07'); sys.stderr.write('\\x1b[31m')\n"
    "return give()",
    "fork that comes back": "os.fork(); return give()",
    "50 forks that come back": "for _ in range(50):\n if os.fork() == 0: return give()\n"
    "return give()",
    "children in sessions of their own": "for _ in range(3): subprocess.Popen(['sleep', '600'], "
    "start_new_session=True)\nreturn give()",
    "a daemon": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(600)\n"
    " os._exit(0)\nreturn give()",
    "endless threads": "for _ in range(3): threading.Thread(target=lambda: time.sleep(600)).start()"
    "\nreturn give()",
    "chdir": "os.chdir('/'); os.umask(0); return give()",
    "environment": "os.environ.clear(); os.environ['PATH'] = '/nowhere'; return give()",
    "signal handlers": "for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1): "
    "signal.signal(n, signal.SIG_IGN)\nreturn give()",
    "signals to its group": "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.killpg(0, signal.SIGTERM); return give()",
    "seeds": "import torch; torch.manual_seed(0); random.seed(0); torch.set_num_threads(1)\n"
    "return torch.tensor(give())",
    "limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); os.nice(5)\n"
    "sys.setrecursionlimit(200); return give()",
    "closes stdout": "sys.stdout.close(); sys.stderr.close(); os.closerange(0, 3); return give()",
    "reads stdin": "assert sys.stdin.read() == ''; return give()",
    "an exit that hangs": "atexit.register(time.sleep, 600); return give()",
    "changes its arguments": "queries.clear(); prompts[:] = ['x']; labels.extend('abc')\n"
    "return give()",
    "breaks the modules": "import rto.errors, traceback\nrto.errors.RewardProtocolError = None\n"
    "traceback.format_exception = None; random.random = None; gc.disable(); return give()",
    "a file beside": "open(os.devnull, 'w').write('x'); return give()",
}
"""These give their rewards, whatever else they do."""


def marked() -> list[str]:
    """Processes that a function of this test left behind."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            is_dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if MARK.encode() in environment and not is_dead and int(folder.name) != os.getpid():
            found.append((folder / "cmdline").read_text())
    return found


def state() -> tuple[object, ...]:
    """What a function could change of its driver."""
    umask = os.umask(0)
    os.umask(umask)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    streams = (sys.stdout.closed, sys.stderr.closed, os.fstat(1), os.fstat(2))
    seeds = (random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads())
    place = (os.getcwd(), dict(os.environ), umask, sys.getrecursionlimit(), os.nice(0))
    return (*place, *handlers, streams[:2], seeds, random.random is not None)


def held(path: Path, body: str, *, gives: bool) -> bool:
    path.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    before, threads = state(), threading.active_count()
    function = RewardFunction(str(path), timeout=60.0 if gives else TIMEOUT, memory_gib=4.0)
    began, ends = time.monotonic(), []
    for _ in range(2):
        try:
            ends.append(function(QUERIES, QUERIES, [None] * 3))
        except RewardProtocolError as error:
            said = str(error)
            one_line = len(said.splitlines()) == 1 and len(said) < 2000 and "\x1b" not in said
            ends.append(one_line and str(path) in said)
    in_time = time.monotonic() - began < 2 * (TIMEOUT + SLACK)
    function.close()
    ended = all(end == GOOD for end in ends) if gives else all(end is True for end in ends)
    left = threading.active_count() - threads
    print(path, ends, time.monotonic() - began, marked(), left, state() == before)
    return ended and in_time and marked() == [] and left <= 0 and state() == before


@pytest.mark.faults
@pytest.mark.goal("S5", "a hostile reward function, called twice")
@pytest.mark.parametrize("name", [*FAILS, *GIVES])
def test_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Any, name: str) -> None:
    monkeypatch.setenv(MARK, "1")
    monkeypatch.setattr(function_process, "STOP", 3.0)
    body = {**FAILS, **GIVES}[name]
    assert tally.count(held(tmp_path / "f.py", body, gives=name in GIVES))
