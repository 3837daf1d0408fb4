"""Names and files of somebody who wants code run, or files touched, where they should not be."""

from __future__ import annotations

import json
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rto.models.load import load_config, load_language_model, load_tokenizer
from rto.scoring.function import RewardFunction
from rto.sections.parse import parse_run
from rto.training.states import load_state

NAMES = (
    "", " ", ".", "..", "...", "../x", "../../x", "a/../b", "/", "/etc", "/etc/passwd", "//x",
    "a/b",
    "a\\b", "..\\x", "C:\\x", "~", "~root", "~/x", "$HOME", "${HOME}", "%TEMP%", "$(id)", "`id`",
    "a;b", "a|b", "a&b", "a>b", "a<b", "a*", "a?", "[a]", "{a,b}", "a b", " a", "a ", "\ta", "a\t",
    "a\n", "\na", "a\nb", "a\r", "\0", "a\0b", "\x1b[31m", "\x7f", "-", "-rf", "--help", "_a", ".a",
    ".lock", "\u2024\u2024/x", "\uff0e\uff0e", "\u202ea", "a\u200b", "\u0430", "\u00e9",
    "\U0001f600",
    "a" * 65, "a" * 300, "a" * 5000, "nul\u0000.txt", "con:", "a'b", 'a"b', "\ud800",
)  # fmt: skip
"""None is a name of a run, a tag or a file."""


class Payload:
    """Pickled, it is a call that makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def attacks(root: Path, base: Path, canary: Path) -> dict[str, Callable[[], object]]:
    """Name -> what reads the hostile thing, as a run would. ``base`` is a small model."""
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    state, old, raw = root / "state.pt", root / "old.pt", root / "raw.pt"
    torch.save({"module": Payload(canary)}, state)
    torch.save({"module": Payload(canary)}, old, _use_new_zipfile_serialization=False)
    raw.write_bytes(pickle.dumps(Payload(canary)))
    function = root / "open" / "reward.py"
    function.parent.mkdir()
    function.write_text(code + "def reward_func(queries, prompts, labels): return [0.0]\n")
    function.chmod(function.stat().st_mode | stat.S_IWOTH)
    pickled = _copy(base, root / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload(canary)}, pickled / "pytorch_model.bin")
    remote = _with(base, root / "remote", "config.json", {
        "model_type": "of_mine",
        "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"},
    })  # fmt: skip
    tokenizer = _with(base, root / "tokenizer", "tokenizer_config.json", {
        "tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.T", "mine.T"]},
    })  # fmt: skip
    for folder in (remote, tokenizer):
        (folder / "mine.py").write_text(code + "C = M = T = None\n")
    template = _with(base, root / "template", "tokenizer_config.json", {
        "chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        f"{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}",
    })  # fmt: skip
    script, rows = root / "rows.py", root / "rows.pkl"
    script.write_text(code)
    rows.write_bytes(pickle.dumps(Payload(canary)))
    config = root / "config.yaml"
    config.write_text(f"train: !!python/object/apply:pathlib.Path.touch [{canary}]\n")
    return {
        "a state": lambda: load_state(state, []),
        "a state of the old format": lambda: load_state(old, []),
        "a bare pickle": lambda: load_state(raw, []),
        "a reward file that all may write": lambda: RewardFunction(str(function)),
        "pickled weights": lambda: _load(pickled),
        "a model with code": lambda: load_config(str(remote)),
        "a tokenizer with code": lambda: load_tokenizer(str(tokenizer)),
        "a chat template": lambda: load_tokenizer(str(template)).apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False
        ),
        "a data set script": lambda: _rows(script),
        "pickled rows": lambda: _rows(rows),
        "a YAML tag": lambda: parse_run("train", ["--config", str(config)]),
    }


def _load(path: Path) -> object:
    return load_language_model(str(path), dtype=torch.float32, attn_implementation="sdpa")


def _rows(path: Path) -> object:
    from rto.data.sources import load_rows

    return list(load_rows(str(path)))


def _copy(base: Path, target: Path) -> Path:
    target.mkdir()
    for file in base.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def _with(base: Path, target: Path, name: str, more: dict[str, object]) -> Path:
    """The model with more in one of its JSON files."""
    file = _copy(base, target) / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    return target
