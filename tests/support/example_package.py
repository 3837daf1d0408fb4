"""The package of docs/extending.md as Python finds it when it is installed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


def block(language: str) -> str:
    """The page's only code block in this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    return text


def write_distribution(folder: Path, name: str, method: str, target: str) -> None:
    """The metadata of a package that registers one method."""
    about = folder / f"{name.replace('-', '_')}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[rto.methods]\n{method} = {target}\n")


def write_example(folder: Path) -> Path:
    """A folder for ``sys.path`` that holds the page's package. Its module has another name than the
    page's, which a test of the same process may have imported from where pip put it."""
    (folder / "rto_rwr_of_the_page.py").write_text(block("python"))
    write_distribution(folder, "rto-rwr", "rwr", "rto_rwr_of_the_page:RWR")
    return folder
