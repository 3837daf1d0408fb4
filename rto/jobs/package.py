"""What a job's upload holds: its size, its largest files, and the secrets in them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ray._private.ray_constants import (
    RAY_RUNTIME_ENV_IGNORE_GITIGNORE,
    get_runtime_env_default_excludes,
)
from ray._private.runtime_env.packaging import (
    GCS_STORAGE_MAX_SIZE,
    _dir_travel,
    _get_excludes,
    get_uri_for_directory,
)

from rto.errors import UserError
from rto.secrets import holds_secret, is_secret_name

MIB = 1 << 20
LARGEST = 10
LIMIT_VARIABLE = "RAY_max_grpc_message_size"
ZIP_ENTRY, ZIP_END = 76, 22
"""Bytes of a stored file's two headers beside its name, and of the archive's end."""
SECRET_FILES = (
    *(".env", ".env.*", "*.pem", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_dsa*"),
    *("id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".git-credentials", ".htpasswd"),
    *("credentials", "credentials.json", "kubeconfig", "auth_token", "*.key"),
)
HARMLESS = ("*.pub", "*.example", "*.sample", "*.template")
LARGEST_READ = 1 * MIB
"""Of a file that is searched for secrets; what is larger holds data."""
MOST_READ = 64 * MIB
"""Of all files together."""

_FORM = re.compile(
    r"sk-|hf_|gh[opsur]_|github_pat_|glpat-|xox|AKIA|eyJ|AIza|wandb_v|://|PRIVATE KEY"
)
"""What a text has in it that is a secret by its form (rto.secrets)."""
_PRIVATE_KEY = re.compile(r"-----BEGIN[ A-Z]*PRIVATE KEY-----")
_WORD = re.compile(r"[^\s\"'`(),;<>\[\]{}|]+")
_ASSIGNED = re.compile(
    r"""\s*(?:export\s+)?["']?(?P<name>[A-Za-z][\w.-]*)["']?\s*[:=]\s*["']?"""
    r"""(?=[^\d]*\d)(?P<value>[\w./+=:@-]{8,})["']?,?\s*"""
)
"""A line that gives a name one long word with a digit in it."""


@dataclass(frozen=True)
class Package:
    """Path in the package, relative to ``folder`` -> bytes of the file."""

    folder: Path
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of the archive: Ray stores the files, it does not compress them."""
        names = sum(ZIP_ENTRY + 2 * len(name.encode()) for name in self.files)
        return sum(self.files.values()) + names + ZIP_END

    @property
    def largest(self) -> list[tuple[str, int]]:
        """The ten largest files, the largest first."""
        return sorted(self.files.items(), key=lambda each: (-each[1], each[0]))[:LARGEST]


def package(folder: Path, excludes: Sequence[str]) -> Package:
    """What Ray would upload of a folder, by Ray's own rules: the job's ``excludes``, Ray's, and
    those of .gitignore and .rayignore files."""
    folder = folder.absolute()
    files: dict[str, int] = {}

    def add(path: Path) -> None:
        name = str(path.relative_to(folder))
        if path.is_file():
            files[name] = path.stat().st_size
        elif path.is_dir() and not any(path.iterdir()):
            files[f"{name}/"] = 0

    left_out = [_get_excludes(folder, _all_excludes(excludes))]
    silent = logging.getLogger(__name__)
    _dir_travel(folder, left_out, add, include_gitignore=_heeds_gitignore(), logger=silent)
    return Package(folder, files)


def uri(folder: Path, excludes: Sequence[str]) -> str:
    """Ray's name for the package: two that are alike have one name. Reads all files."""
    return get_uri_for_directory(
        str(folder), include_gitignore=_heeds_gitignore(), excludes=_all_excludes(excludes)
    )


def check(found: Package) -> None:
    """
    Raises:
        UserError: the package is larger than Ray takes, or a file in it holds a secret.
    """
    if found.size >= GCS_STORAGE_MAX_SIZE:
        name, size = found.largest[0]
        raise UserError(
            f"{found.folder} makes a package of {mib(found.size)}, Ray takes less than "
            f"{mib(GCS_STORAGE_MAX_SIZE)} ({LIMIT_VARIABLE}): leave files out under "
            f"runtime_env.excludes, the largest is {name} ({mib(size)})"
        )
    for name, what in secrets(found):
        raise UserError(
            f"{found.folder / name} {what} and would be uploaded, for everyone who can reach the "
            "cluster to read: add it to runtime_env.excludes, and set secrets on the nodes"
        )


def secrets(found: Package) -> Iterator[tuple[str, str]]:
    """Files that hold a secret, and why that is thought; the secret is not told."""
    left = MOST_READ
    for name, size in found.files.items():
        base = name.rpartition("/")[2]
        if any(fnmatch(base, pattern) for pattern in HARMLESS):
            continue
        if any(fnmatch(base, pattern) for pattern in SECRET_FILES):
            yield name, "is a file for secrets by its name"
        elif 0 < size <= min(LARGEST_READ, left):
            left -= size
            line = _secret_line((found.folder / name).read_bytes())
            if line is not None:
                yield name, f"holds a secret in line {line}"


def _secret_line(content: bytes) -> int | None:
    """Number of the first line with a secret; None of a text without one, and of other files."""
    if b"\0" in content:
        return None
    lines = content.decode("utf-8", "replace").splitlines()
    return next((number for number, line in enumerate(lines, 1) if _is_secret(line)), None)


def _is_secret(line: str) -> bool:
    """Narrower than ``holds_secret``, which would take a program's ``token = words[0]`` for one."""
    if _FORM.search(line):
        words = (word for word in _WORD.findall(line) if "=" not in word)
        if _PRIVATE_KEY.search(line) or any(map(holds_secret, words)):
            return True
    assigned = _ASSIGNED.fullmatch(line)
    return bool(assigned and is_secret_name(assigned["name"]) and holds_secret(line))


def mib(size: float) -> str:
    return f"{size / MIB:.2f} MiB"


def _heeds_gitignore() -> bool:
    """As Ray's own client decides it."""
    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _all_excludes(excludes: Sequence[str]) -> list[str]:
    return [*get_runtime_env_default_excludes(), *excludes]
