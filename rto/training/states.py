"""The files of a checkpoint as DeepSpeed writes and reads them, through functions of ours."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from rto.errors import UserError, told
from rto.training.writer import HostFile

Classes = list[Callable[..., object] | tuple[Callable[..., object], str]]


class StateFiles(Protocol):
    """The part of DeepSpeed's ``CheckpointEngine`` that is used here."""

    zipfile_serialization: bool
    save: Any
    load: Any


@contextlib.contextmanager
def kept_in_memory(files: StateFiles) -> Iterator[list[HostFile]]:
    """Within it, what DeepSpeed saves goes into the list that this gives."""
    kept: list[HostFile] = []

    def keep(state_dict: object, path: str) -> None:
        content = io.BytesIO()
        zipped = files.zipfile_serialization
        torch.save(state_dict, content, _use_new_zipfile_serialization=zipped)
        kept.append(HostFile(Path(path), content))

    files.save = keep
    try:
        yield kept
    finally:
        del files.save


@contextlib.contextmanager
def without_code(files: StateFiles, classes: Classes) -> Iterator[None]:
    """Within it, DeepSpeed loads tensors, plain values and ``classes``: by itself it would run
    whatever a pickle says.

    Raises:
        UserError: by the load, a file that holds something else; nothing of it was run.
    """

    def load(path: str, map_location: Any = None) -> Any:
        return load_state(Path(path), classes, map_location)

    files.load = load
    try:
        yield
    finally:
        del files.load


def load_state(path: Path, classes: Classes, map_location: Any = None) -> Any:
    """
    Raises:
        UserError: the file cannot be read as tensors, plain values and objects of ``classes``.
    """
    try:
        with torch.serialization.safe_globals(classes):
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: choose another checkpoint") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and settings, and nothing of it was run: it was not "
            f"written by this program, remove this checkpoint ({_refused(error)})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {told(error)}; remove this checkpoint") from error


def _refused(error: pickle.UnpicklingError) -> str:
    """The line of torch's page of advice that says what was found."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return found[0][:200] if found else told(error, 200)
