"""Job files: what one says, checked before anything is sent.

A job is one YAML file with a name, the entrypoint, the runtime environment and the resources of the
driver.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rto.errors import UserError, nearest
from rto.resources import IS_CHECKOUT, ROOT, shipped
from rto.secrets import hide, holds_secret, is_secret_name
from rto.text import one_line
from rto.yaml_file import read_yaml

HERE = ROOT if IS_CHECKOUT else Path.cwd()
"""Where a job without a directory to upload runs: the checkout, or where a wheel's user stands."""
RUNTIME_KEYS = ("working_dir", "env_vars", "excludes", "pip")
RESOURCE_KEYS = ("num_cpus", "num_gpus")
MOST = 1e6
"""Of CPUs or GPUs that a driver may ask for."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE_VALUE = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")
SHOWN_BY_RAY = (
    "Ray shows it in its dashboard and logs: set secrets in the environment of the cluster's nodes"
)


@dataclass(frozen=True)
class JobFile:
    """One job file. ``entrypoint`` is a shell line, or a list whose items are quoted."""

    name: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    resources: Mapping[str, float]

    @property
    def working_dir(self) -> Path | None:
        """The directory to upload, relative to the checkout (the wheel's example files
        where there is none); None runs where the submitter stands."""
        path = self.runtime_env.get("working_dir")
        return None if path is None else (ROOT / path).resolve()


def load_job(path: Path) -> JobFile:
    """Read and check a job file.

    Raises:
        UserError: one line with the file, the key and the remedy.
    """
    path = Path(shipped(str(path)))
    if not path.is_file():
        raise UserError(f"{path}: no such job file")
    known = [field.name for field in fields(JobFile)]
    content = _mapping(read_yaml(path), known, where=f"{path}")
    name = content.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UserError(f"{path}: name is {_shown(name)}: give the job a name of one line")
    job = JobFile(
        name,
        _entrypoint(content.get("entrypoint"), where=f"{path}: entrypoint"),
        _runtime_env(content.get("runtime_env"), where=f"{path}: runtime_env"),
        _resources(content.get("resources"), where=f"{path}: resources"),
    )
    _check_secrets(job, where=str(path))
    if job.working_dir is not None and not job.working_dir.is_dir():
        raise UserError(
            f"{path}: runtime_env.working_dir {job.runtime_env['working_dir']!a}: no such folder "
            f"in {HERE}"
        )
    if job.working_dir in HERE.parents:
        raise UserError(
            f"{path}: runtime_env.working_dir {job.working_dir} would be uploaded whole, with all "
            "that lies beside this checkout: name the checkout (.) or a folder of its own"
        )
    return job


def _entrypoint(value: object, *, where: str) -> str:
    """The shell line; a list of words is quoted."""
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        value = shlex.join(map(str, value))
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {_shown(value)}: give a command line or a list of words")
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise UserError(f"{where}: {str(error).lower()}: close the quote") from error
    if not words or not value.isprintable():
        raise UserError(f"{where} is {_shown(value)}: give one command line")
    return value.strip()


def _runtime_env(value: object, *, where: str) -> dict[str, Any]:
    env = _mapping(value, RUNTIME_KEYS, where=where)
    folder = env.get("working_dir")
    if folder is not None and (not isinstance(folder, str) or not folder.strip()):
        raise UserError(f"{where}.working_dir is {_shown(folder)}: name a folder, or null")
    for key in ("excludes", "pip"):
        given = env.get(key)
        texts = given is None or (isinstance(given, list) and all(type(x) is str for x in given))
        if not texts and not (key == "pip" and isinstance(given, str)):
            raise UserError(f"{where}.{key} is {_shown(given)}: give a list of texts")
    if env.get("env_vars") is not None:
        env["env_vars"] = _env_vars(env["env_vars"], where=f"{where}.env_vars")
    return env


def _env_vars(value: object, *, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UserError(f'{where} is {_shown(value)}: give NAME: "value" lines')
    for name, text in value.items():
        if not isinstance(name, str) or VARIABLE.fullmatch(name) is None:
            raise UserError(f"{where}: {_shown(name)} is no name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise UserError(f"{where}.{name} is a {type(text).__name__}: write it in quotes")
    return value


def _resources(value: object, *, where: str) -> dict[str, float]:
    resources = _mapping(value, RESOURCE_KEYS, where=where)
    for key, number in resources.items():
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not 0 <= number <= MOST:
            raise UserError(f"{where}.{key} is {_shown(number)}: give a number, 0 or more")
    return resources


def check_overrides(overrides: Sequence[str]) -> None:
    """
    Raises:
        UserError: the flags behind ``--`` hold a secret.
    """
    line = shlex.join(overrides)
    if holds_secret(line):
        raise UserError(f"the flags behind -- hold a secret ({_shown(line)}): {SHOWN_BY_RAY}")


def _check_secrets(job: JobFile, *, where: str) -> None:
    """Ray shows a job's environment and command to everyone who sees its dashboard."""
    env = job.runtime_env
    for name, value in (env.get("env_vars") or {}).items():
        plain = value == "" or VARIABLE_VALUE.fullmatch(value)
        if (is_secret_name(name) and not plain) or holds_secret(value):
            raise UserError(f"{where}: runtime_env.env_vars.{name} holds a secret: {SHOWN_BY_RAY}")
    texts = {"name": job.name, "entrypoint": job.entrypoint}
    for key in ("working_dir", "excludes", "pip"):
        given = env.get(key)
        texts[f"runtime_env.{key}"] = "\n".join(given) if isinstance(given, list) else given or ""
    for key, text in texts.items():
        if holds_secret(text):
            raise UserError(f"{where}: {key} holds a secret ({_shown(text)}): {SHOWN_BY_RAY}")


def _shown(value: object) -> str:
    """A value of a job file for a message: one line, without secrets."""
    return hide(one_line(ascii(value), 120))


def _mapping(value: object, known: Collection[str], *, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected keys {', '.join(known)}, got {_shown(value)}")
    for key in value:
        if key not in known:
            hint = nearest(str(key), known) or f"one of {', '.join(known)}"
            raise UserError(f"{where}: unknown key {hide(one_line(str(key), 60))}: {hint}")
    return value
