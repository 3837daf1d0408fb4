"""`rto convert-flags SCRIPT.sh`: the command here for a training script of another program."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rto.cli.shell_script import OUTPUT, Call, find_calls
from rto.errors import UserError, foreign
from rto.secrets import hide, holds_secret
from rto.sections import reads
from rto.sections.foreign import explain, renamed, table
from rto.sections.names import accepted, aliases
from rto.text import one_line

PROGRAM = re.compile(
    r"(?:^|[./])train_(?P<trainer>sft|rm|dpo|kto|ppo)\w*$|(?:^|/)train_(?P<file>sft|rm|dpo|kto|ppo)\w*\.py$"
    r"|(?:^|/)trl$"
    r"|(?:^|/)(?P<script>sft|dpo|kto|grpo|rloo|ppo|reward_modeling)\.py$",
)
COMMANDS = {
    "sft": ("sft", None),
    "rm": ("reward", None),
    "reward": ("reward", None),
    "reward_modeling": ("reward", None),
    "dpo": ("dpo", None),
    "kto": ("fit", "kto"),
    "ppo": ("train", "ppo"),
    "grpo": ("train", "grpo"),
    "rloo": ("train", "rloo"),
}
"""A trainer of theirs -> our command and method."""

ESTIMATORS = {
    "gae": "ppo",
    "reinforce": "reinforce_pp",
    "rloo": "rloo",
    "reinforce_baseline": "reinforce_baseline",
    "group_norm": "grpo",
    "dr_grpo": "dr_grpo",
}
RTO_FLAGS = ("dpo_pretrain", "dpo_reward_scale", "dpo_reward_clip")
USAGE = "usage: rto convert-flags SCRIPT.sh"


@dataclass
class FlagConversion:
    """Our command, its flags in order, and what has to be said about the others."""

    command: str
    method: str | None
    given: Mapping[str, list[str]]
    """Their flags, without dashes, with their values."""
    flags: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, *values: str) -> None:
        self.flags[name] = list(values)

    def note(self, theirs: str, said: str) -> None:
        self.notes.append(one_line(f"--{hide(theirs)}: {said}"))


def main(argv: Sequence[str]) -> int:
    if list(argv) in ([], ["-h"], ["--help"]):
        print(f"{USAGE}\n\nprints the rto command for a script of OpenRLHF or TRL; runs nothing")
        return 0
    if len(argv) != 1:
        raise UserError(f"convert-flags takes one script, got {len(argv)} arguments: {USAGE}")
    path = Path(argv[0])
    with foreign(f"{path}: cannot read the script", "give a shell script"):
        text = path.read_text(encoding="utf-8")
    with in_script(path):
        calls = find_calls(text, PROGRAM)
        converted = [rendered(convert(call)) for call in calls]
    if not calls:
        raise UserError(
            f"{path}: no call of an OpenRLHF or TRL trainer found (train_sft, train_rm, train_dpo, "
            "train_kto, train_ppo..., trl ...)"
        )
    print("#!/bin/bash")
    for call, lines in zip(calls, converted, strict=True):
        print(lines, end="")
        for name in call.unset:
            print(f"rto: {path}: set ${name} before the command runs", file=sys.stderr)
    return 0


@contextmanager
def in_script(path: Path) -> Iterator[None]:
    """What is wrong with a call is said with the name of its script."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def convert(call: Call) -> FlagConversion:
    """The command that does what ``call`` does, as far as there is one.

    Raises:
        UserError: the call names no trainer that has a counterpart.
    """
    name, words = _trainer(call.words)
    command, method = COMMANDS[name]
    given = _flags(words)
    if command == "train" and any(flag in given for flag in RTO_FLAGS):
        method = "rto"
    conversion = FlagConversion(command, method, given)
    for flag, values in given.items():
        _convert_flag(conversion, flag, values)
    _add_defaults(conversion)
    _drop_unread(conversion)
    return conversion


def rendered(conversion: FlagConversion) -> str:
    """The conversion as lines of a shell script: notes as comments, then the command."""
    head = f"rto {conversion.command}"
    if conversion.method is not None:
        head += f" --algo {conversion.method}"
    lines = [head, *(_line(name, values) for name, values in conversion.flags.items())]
    notes = "".join(f"# {note}\n" for note in conversion.notes)
    return notes + " \\\n  ".join(lines) + "\n"


def _trainer(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    program, rest = words[0], words[1:]
    match = PROGRAM.search(program)
    name = match and (match["trainer"] or match["file"] or match["script"])
    if name is None and rest:
        name, rest = rest[0], rest[1:]
    if name not in COMMANDS:
        raise UserError(f"{' '.join(words[:2])}: no such trainer here: {', '.join(COMMANDS)}")
    return name, rest


def _flags(words: Sequence[str]) -> dict[str, list[str]]:
    """Their flags, dashes within a name as underscores; a flag that stands twice: the last one."""
    flags: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, inline = word[2:].partition("=")
            values = [inline] if equals else []
            flags[name.replace("-", "_")] = values
        elif flags:
            values.append(word)
        else:
            raise UserError(f"unexpected word {word!r} before the first flag of the call")
    return flags


def _convert_flag(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    output = next(
        (value for value in values if OUTPUT in value or "$(" in value or "`" in value), None
    )
    if output is not None:
        conversion.note(flag, "holds the output of a command, which is not run: give its value")
        return
    if any(map(holds_secret, values)):
        conversion.note(flag, "holds a secret: left out; write ${NAME} for it, a variable")
        return
    if flag in table()["by_value"] or flag in ("reward.remote_url", "ds.param_dtype"):
        BY_VALUE[flag](conversion, flag, values)
        return
    ours = renamed(flag, conversion.command)
    if ours is None and (flag in accepted() or flag in aliases()):
        ours = flag
    if ours is not None:
        conversion.set(ours, *values)
        return
    said = explain(flag, conversion.command)
    conversion.note(flag, said or "no counterpart is known: left out")


def _method(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    method = ESTIMATORS.get(_one(flag, values))
    if method is None:
        conversion.note(flag, table()["by_value"][flag])
    elif conversion.method != "rto":
        conversion.method = method


def _prompt_length(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    """data.max_len is prompt and response together."""
    answer = conversion.given.get("generate_max_len", values)
    try:
        total = int(_one(flag, values)) + int(_one("generate_max_len", answer))
    except ValueError:
        conversion.note(flag, table()["by_value"][flag])
    else:
        conversion.set("data.max_len", str(total))


def _only(value: str) -> Callable[[FlagConversion, str, list[str]], None]:
    """A flag of which this program has one value alone."""

    def convert_only(conversion: FlagConversion, flag: str, values: list[str]) -> None:
        if _one(flag, values) != value:
            conversion.note(flag, table()["by_value"][flag])

    return convert_only


def _constant(*flag_and_value: str) -> Callable[[FlagConversion, str, list[str]], None]:
    """A switch of theirs that is a setting with a value here."""
    ours, *value = flag_and_value

    def convert_switch(conversion: FlagConversion, flag: str, values: list[str]) -> None:
        if values != ["False"] and values != ["false"]:
            conversion.set(ours, *value)

    return convert_switch


def _loss(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    loss = {"sigmoid": "dpo", "ipo": "ipo"}.get(_one(flag, values))
    if loss is None or conversion.command != "dpo":
        conversion.note(flag, table()["by_value"][flag])
    else:
        conversion.set("loss", loss)


def _dtype(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    short = {"bfloat16": "bf16", "float32": "fp32", "bf16": "bf16", "fp32": "fp32", "auto": "auto"}
    dtype = short.get(_one(flag, values))
    if dtype is None:
        conversion.note(flag, f"{' '.join(values)} is not available here; bf16 or fp32")
    else:
        conversion.set("ds.param_dtype", dtype)


def _half(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    conversion.note(flag, f"not available here; {table()['by_value'][flag]}")


def _reward_source(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    """OpenRLHF takes a Python file in the place of an address."""
    value = _one(flag, values)
    name = "reward.func_path" if value.endswith(".py") else "reward.remote_url"
    conversion.set(name, value)


def _wandb(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    """The key itself is not carried over: it would be seen in the list of processes."""
    conversion.set("logger.wandb.enable")
    conversion.note(flag, "the key comes from WANDB_API_KEY or `wandb login`, not from the flag")


def _batch(conversion: FlagConversion, flag: str, values: list[str]) -> None:
    """TRL's batch: sequences per device and accumulation step."""
    if "train.batch_size" in conversion.flags:
        return
    given = conversion.given
    per_device = given.get("per_device_train_batch_size", ["8"])
    steps = given.get("gradient_accumulation_steps", ["1"])
    try:
        size = int(_one(flag, per_device)) * int(_one(flag, steps))
    except ValueError:
        conversion.note(flag, table()["by_value"][flag])
        return
    conversion.set("train.batch_size", str(size))
    conversion.note(flag, f"train.batch_size {size} is for one device: multiply it by their number")


BY_VALUE: Mapping[str, Callable[[FlagConversion, str, list[str]], None]] = {
    "algo.advantage.estimator": _method,
    "advantage_estimator": _method,
    "actor.policy_loss_type": _only("ppo"),
    "model.loss_type": _only("sigmoid"),
    "prompt_max_len": _prompt_length,
    "model.ipo_enable": _constant("loss", "ipo_sum"),
    "ipo": _constant("loss", "ipo_sum"),
    "loss_type": _loss,
    "bf16": _constant("ds.param_dtype", "bf16"),
    "fp16": _half,
    "torch_dtype": _dtype,
    "dtype": _dtype,
    "ds.param_dtype": _dtype,
    "flash_attn": _constant("ds.attn_implementation", "flash_attention_2"),
    "flash_attn_2": _constant("ds.attn_implementation", "flash_attention_2"),
    "reward.remote_url": _reward_source,
    "remote_rm_url": _reward_source,
    "logger.wandb.key": _wandb,
    "use_wandb": _wandb,
    "per_device_train_batch_size": _batch,
    "gradient_accumulation_steps": _batch,
}


def _add_defaults(conversion: FlagConversion) -> None:
    """What OpenRLHF 0.11, whose names have dots, does where a flag is left out."""
    if not any("." in flag for flag in conversion.given):
        conversion.notes.append("settings that the script leaves out have this program's defaults")
        return
    for name, value in table()["defaults"].get(conversion.command, {}).items():
        if name not in conversion.flags:
            conversion.set(name, str(value).lower())


def _drop_unread(conversion: FlagConversion) -> None:
    """What the method does not read would be refused; that it was given is said."""
    command = conversion.command
    given = {aliases().get(name, name): values for name, values in conversion.flags.items()}
    chosen = (given.get("preference.loss") or ["dpo"])[0]
    method = chosen if command == "dpo" else conversion.method or command
    theirs = {renamed(flag, command) or flag for flag in conversion.given}
    for name, dotted in zip(list(conversion.flags), given, strict=True):
        if not reads.reads(command, method, dotted, {**given, "algo.name": method}):
            del conversion.flags[name]
            if name in theirs:
                conversion.note(name, f"not read by {method}: left out")


def _one(flag: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise UserError(f"--{flag} takes one value, the script gives {len(values)}")
    return values[0]


def _line(name: str, values: Sequence[str]) -> str:
    return " ".join([f"--{name}", *(_quoted(value) for value in values)])


def _quoted(value: str) -> str:
    """As a shell reads it; a variable that the script leaves open stays one."""
    return f'"{value}"' if "$" in value and '"' not in value else shlex.quote(value)
