from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rto.tracking.quiet import escape_control

CHATTER = """
import logging, sys, warnings
from pathlib import Path
from rto.tracking.quiet import quiet
logs = Path(sys.argv[1])
quiet(logs)
quiet(logs)
library = logging.getLogger("transformers")
library.addHandler(logging.StreamHandler())
logging.getLogger("transformers.loading").warning("a library speaks")
warnings.warn("a warning is raised")
logging.getLogger("rto.loop").warning("we speak")
from tqdm import tqdm
list(tqdm(range(3)))
"""


def test_libraries_speak_to_files_and_we_to_the_console(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHATTER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout + done.stderr == "we speak\n"
    assert (tmp_path / "transformers.log").read_text().count("a library speaks") == 1
    assert (tmp_path / "py.warnings.log").read_text().count("a warning is raised") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x9b1m", "a\\x0db\\x9b1m"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\ud800", "\\ud800"),
        ("été 日本 👩‍👧", "été 日本 👩‍👧"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, expected: str) -> None:
    assert escape_control(text) == expected


def test_nowhere_is_neither_a_file_nor_the_console(tmp_path: Path) -> None:
    code = CHATTER.replace("Path(sys.argv[1])", "None")
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    )
    assert "a library speaks" not in done.stderr
    assert "a warning is raised" not in done.stderr
    assert "we speak" in done.stderr
    assert list(tmp_path.iterdir()) == []
