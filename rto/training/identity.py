"""What decides the meaning of a saved position: settings, and the content of files they name."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rto.errors import UserError, foreign, nearest
from rto.sections.names import canonical, known_fields
from rto.sections.parse import flat
from rto.sections.run_config import RunConfig

FREE_SECTIONS = ("ckpt", "eval", "generate", "logger", "plan", "ray", "vllm")
FREE = frozenset({
    "actor.gradient_checkpointing_enable", "critic.gradient_checkpointing_enable",
    "critic.save_value_network", "data.cache_dir", "ds.attn_implementation", "ds.overlap_comm",
    "ds.sequence_parallel_size", "ds.timeout", "ref.num_gpus_per_node", "ref.num_nodes",
    "ref.offload", "reward.func_memory_gib", "reward.func_timeout", "reward.on_failure",
    "reward.remote_batch_size", "reward.remote_concurrency", "reward.remote_timeout",
    "reward.remote_token_env", "rollout.max_tokens_per_gpu", "rollout.scoring_parts",
    "train.colocate_all", "train.device", "train.max_skipped_steps", "train.max_steps",
    "train.max_tokens_per_gpu", "train.micro_batch_size", "train.num_episodes", "train.self_check",
})  # fmt: skip
"""How long a run is, where it computes and what it says: may change when it goes on."""
MODELS = "model_name_or_path"
LARGE, PART = 4 << 20, 1 << 20
"""Of a model's file above so many bytes only so many at both ends are read, and its size."""
FILES = frozenset({
    "data.chat_template", "data.dataset", "data.eval_dataset", "data.feedback",
    "data.pretrain_dataset", "data.prompt_dataset", "ds.config", "reward.func_path",
})  # fmt: skip
"""Settings that name files, compared by content: a file may move."""


FIXED = re.compile(
    r"method|ds\.(zero_stage|param_dtype|load_in_4bit|lora\..*)"
    r"|(actor|critic)\.(model_name_or_path|num_nodes|num_gpus_per_node|adam\..*)"
)
"""Saved with the weights and the optimizer: another value would not act, or not load."""


@dataclass(frozen=True)
class Identity:
    """What a run must share with a checkpoint to go on from it.

    ``settings`` are by dotted name; ``files`` have [name, digest] of each file of a setting.
    """

    method: str
    settings: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)


def identity_of(config: RunConfig, method: str) -> Identity:
    """As plain values, so that what is read from a checkpoint compares equal.

    Raises:
        UserError: a file cannot be read.
    """
    settings = flat(config)
    files = {name: _named_files(settings.pop(name)) for name in sorted(FILES & settings.keys())}
    for name in [name for name in settings if name.endswith(MODELS) and _is_compared(name)]:
        files[name] = _named_files(settings[name], model_fingerprint)
    kept = {
        name: _place(value) if name.endswith(MODELS) else value
        for name, value in settings.items()
        if _is_compared(name)
    }
    return Identity(method, json.loads(json.dumps(kept)), files)


def _is_compared(name: str) -> bool:
    return name not in FREE and name.split(".")[0] not in FREE_SECTIONS


def differences(kept: Identity, wanted: Identity) -> dict[str, str]:
    """By name of the setting: its value in the checkpoint, and in this run.

    A setting that only one of two versions of this program knows is passed over.
    """
    changes: dict[str, str] = {}
    before_by_name = _by_todays_names(kept)
    if kept.method != wanted.method:
        changes["method"] = f"{kept.method}, this run {wanted.method}"
    for name, value in wanted.settings.items():
        if name in before_by_name and before_by_name[name] != value:
            changes[name] = f"{before_by_name[name]}, this run {value}"
    for name, files in wanted.files.items():
        before = kept.files.get(name, files)
        if [digest for _, digest in before] != [digest for _, digest in files]:
            changes[name] = _told_files(before, files)
    return changes


def _by_todays_names(kept: Identity) -> dict[str, object]:
    """A former spelling is the setting that it meant, unless it held null, the method's own."""
    return {
        canonical(name, kept.method) or name: value
        for name, value in kept.settings.items()
        if name in known_fields() or value is not None
    }


def check_allowed(allow: Sequence[str], identity: Identity) -> None:
    """
    Raises:
        UserError: a name in ckpt.allow is no setting that is compared, or one that cannot change.
    """
    known = ["method", *identity.settings, *identity.files]
    for name in allow:
        if FIXED.fullmatch(name):
            raise UserError(
                f"ckpt.allow {name}: it is saved with the weights and the optimizer, so another "
                "value has no effect on a run that goes on: start a new run with it"
            )
        if name not in known:
            hint = nearest(name, known) or "nothing that a checkpoint compares"
            raise UserError(f"ckpt.allow {name}: {hint}")


def _told_files(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str:
    old, new = (", ".join(name for name, _ in each) or "none" for each in (before, now))
    return f"{old} with other content" if old == new else f"{old}, this run {new}"


def _place(value: object) -> object:
    """A path as one of its many spellings; a hub id as it is."""
    if isinstance(value, list):
        return [_place(item) for item in value]
    if isinstance(value, str) and Path(value).expanduser().exists():
        return str(Path(value).expanduser().resolve())
    return value


def _named_files(value: object, digest: Callable[[str], str] | None = None) -> list[list[str]]:
    names = value if isinstance(value, list) else [] if value is None else [value]
    return [[str(name), (digest or fingerprint)(str(name))] for name in names]


def fingerprint(name: str) -> str:
    """SHA-256 of a file, or of all files of a directory with their names; of a hub id its name."""
    path = Path(name).expanduser()
    with foreign(f"{name}: cannot be read"):
        if path.is_file():
            return _digest(path)
        if not path.is_dir():
            return f"hub:{name}"
        whole = hashlib.sha256()
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            whole.update(f"{file.relative_to(path)}\0{_digest(file)}\n".encode())
        return whole.hexdigest()


def model_fingerprint(name: str) -> str:
    """SHA-256 of a model's directory, tokenizer included, without reading gigabytes: see ``PART``.
    Of a hub id its name."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return f"hub:{name}"
    with foreign(f"{name}: cannot be read"):
        whole = hashlib.sha256()
        for file in sorted(each for each in path.iterdir() if each.is_file()):
            size = file.stat().st_size
            whole.update(f"{file.name}\0{size}\0".encode())
            whole.update(_read_ends(file, size))
        return whole.hexdigest()


def _read_ends(file: Path, size: int) -> bytes:
    """The whole of a file, or of a large one both ends."""
    with file.open("rb") as content:
        if size <= LARGE:
            return content.read()
        first = content.read(PART)
        content.seek(-PART, os.SEEK_END)
        return first + content.read()


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    """Read once, however often a run asks; a file that changes has another size or time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
