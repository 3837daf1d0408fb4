"""Example configurations and job files: of the checkout, or of the wheel, which has copies here."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "examples").is_dir() else HERE.parents[1]
"""The folder that has ``examples/`` and ``ray_jobs/``."""
CONFIGS = ROOT / "examples" / "configs"
IS_CHECKOUT = ROOT != HERE
FOLDERS = ("examples/configs", "ray_jobs")


def shipped(path: str) -> str:
    """``path`` itself where it exists; else the shipped file of this name, where there is one.

    So `--config examples/configs/NAME.yaml` means the same in a checkout and in any other folder.
    """
    folder, _, name = path.rpartition("/")
    if folder not in FOLDERS or Path(path).exists() or not (ROOT / folder / name).is_file():
        return path
    return str(ROOT / folder / name)
