"""Example configurations and job files: the checkout's own, or the copies in a wheel."""

from __future__ import annotations

from pathlib import Path

COPIES = Path(__file__).resolve().parent / "shipped"
ROOT = COPIES if (COPIES / "examples").is_dir() else COPIES.parents[1]
"""The folder that has ``examples/`` and ``ray_jobs/``."""
CONFIGS = ROOT / "examples" / "configs"
IS_CHECKOUT = ROOT != COPIES
FOLDERS = ("examples/configs", "ray_jobs")


def shipped(path: str) -> str:
    """``path`` itself where it exists; else the shipped file of this name, where there is one.

    So `--config examples/configs/NAME.yaml` means the same in a checkout and in any other folder.
    """
    folder, _, name = path.rpartition("/")
    if folder not in FOLDERS or Path(path).exists() or not (ROOT / folder / name).is_file():
        return path
    return str(ROOT / folder / name)
