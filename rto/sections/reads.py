"""Which settings each command and method reads: the one table of it.

A name stands for all settings below it, and the longest name decides. A method reads its own
settings and, of those that are no method's own, what ``METHODS`` says by its card and its sections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from rto.sections.methods import (
    REWARD,
    MethodSettings,
    installed,
    learns_from,
    methods_of,
    uses,
)
from rto.sections.names import LOSS, canonical, owners

OFFLINE = frozenset({"sft", "reward", "dpo", "fit"})
ONLINE = frozenset({"train"})
TRAINING = OFFLINE | ONLINE
FIT = frozenset({"fit"})
RATED_OR_ONLINE = frozenset({"fit", "train"})
REFERENCED = frozenset({"dpo", "fit", "train"})
POLICIES = frozenset({"sft", "dpo", "fit", "train"})
PAIRED = frozenset({"reward", "dpo", "fit"})
SAMPLING = frozenset({"generate", "eval"})

COMMANDS: dict[str, frozenset[str]] = {
    "actor": TRAINING,
    "critic": RATED_OR_ONLINE,
    "critic.freezing_steps": ONLINE,
    "ref": REFERENCED,
    "reward": ONLINE,
    "dpo": ONLINE,
    "algo": RATED_OR_ONLINE,
    "algo.ptx_coef": ONLINE,
    "rollout": ONLINE,
    "rollout.max_tokens_per_gpu": TRAINING,
    "train": TRAINING,
    "train.num_episodes": ONLINE,
    "train.colocate_all": ONLINE,
    "train.async_lag": ONLINE,
    "train.self_check": ONLINE,
    "train.enable_ema": POLICIES,
    "train.ema_beta": POLICIES,
    "train.seed": TRAINING | SAMPLING,
    "train.device": TRAINING | SAMPLING,
    "data": TRAINING,
    "data.prompt_dataset": ONLINE,
    "data.prompt_probs": ONLINE,
    "data.prompt_split": ONLINE | {"generate"},
    "data.pretrain_dataset": ONLINE,
    "data.label_key": ONLINE,
    "data.dataset": OFFLINE,
    "data.dataset_probs": OFFLINE,
    "data.dataset_split": OFFLINE,
    "data.eval_dataset": OFFLINE,
    "data.eval_ratio": OFFLINE,
    "data.on_few_responses": FIT,
    "data.reward_scaling": FIT,
    "data.input_key": frozenset({"sft", "fit", "train"}),
    "data.output_key": frozenset({"sft", "fit"}),
    "data.prompt_key": PAIRED,
    "data.chosen_key": PAIRED,
    "data.rejected_key": PAIRED,
    "data.input_template": TRAINING | {"generate"},
    "data.chat_template": TRAINING | SAMPLING,
    "ds": TRAINING,
    "ds.param_dtype": TRAINING | SAMPLING,
    "ds.attn_implementation": TRAINING | SAMPLING,
    "vllm": ONLINE,
    "vllm.engine": ONLINE | SAMPLING,
    "vllm.gpu_memory_utilization": ONLINE | SAMPLING,
    "vllm.enforce_eager": ONLINE | SAMPLING,
    "vllm.cpu_kvcache_gib": ONLINE | SAMPLING,
    "ray": TRAINING | {"eval"},
    "ray.max_restarts": TRAINING,
    "plan": TRAINING,
    "plan.nodes": ONLINE,
    "plan.prompt_tokens": ONLINE,
    "plan.response_tokens": ONLINE,
    "plan.from_run": ONLINE,
    "ckpt": TRAINING,
    "ckpt.journal": ONLINE,
    "eval": OFFLINE,
    "logger": TRAINING,
    "generate": frozenset({"generate"}),
}
"""Setting -> the commands that read it. `rto compare` runs several, and reads what any does."""

COMPARE = "compare"
"""Its flags are for several methods at once: each takes what it reads."""
EVAL_ENGINE = ("vllm", "ref", "rollout.max_tokens_per_gpu")
"""`rto eval` starts engines and scorers of a run."""

METHODS: dict[str, Callable[[str], bool]] = {
    "critic": partial(uses, section="critic"),
    "ref.model_name_or_path": partial(uses, section="ref"),
    "dpo": partial(uses, section="dpo"),
    "data.on_few_responses": partial(learns_from, feedback="rewards"),
    "data.reward_scaling": partial(learns_from, feedback="rewards"),
    "data.output_key": partial(learns_from, feedback="demonstrations"),
    "data.prompt_key": partial(learns_from, feedback="pairs"),
    "data.chosen_key": partial(learns_from, feedback="pairs"),
    "data.rejected_key": partial(learns_from, feedback="pairs"),
}
"""Setting -> whether a method reads it. One that is not below any of these is read by all methods
of its commands, except the methods' own."""


def method_of(command: str, values: Mapping[str, Any]) -> str | None:
    """The method that a command with these settings runs; None where it runs none, or several."""
    if command in ("sft", REWARD):
        return command
    named = values.get("algo.name")
    if command == "dpo":
        return values.get(LOSS) or (named if named in methods_of("dpo") else "dpo")
    return (named or "ppo") if command in RATED_OR_ONLINE else None


def reads(command: str, method: str | None, name: str, values: Mapping[str, Any]) -> bool:
    """Whether the setting acts in this command with this method.

    Args:
        method: None for any method of the command.
        name: in any spelling.
        values: what is set, by dotted name.
    """
    if command == COMPARE:
        return any(reads(each, None, name, values) for each in TRAINING | {"eval"})
    if command == "eval" and any(covers(part, name) for part in EVAL_ENGINE):
        return True
    if name == "algo.name" and command == "dpo":
        return values.get(name) in methods_of("dpo")
    if command not in _commands(name):
        return False
    candidates = methods_of(command) if method is None else frozenset({method})
    return any(_acts(each, name, values) for each in candidates & readers_of(name))


def readers_of(name: str) -> frozenset[str]:
    """The methods that read a setting."""
    own = owners(name)
    if own is not None:
        return own
    condition = _nearest(METHODS, name)
    everyone = frozenset({*installed().methods, REWARD})
    return frozenset(x for x in everyone if condition(x)) if condition else everyone


def _commands(name: str) -> frozenset[str]:
    """The commands that read a setting: of a method's own, those that run the method."""
    if name == LOSS:
        return frozenset({"dpo"})
    own = owners(name)
    if own is None:
        return _nearest(COMMANDS, name) or TRAINING
    return frozenset(each for each in POLICIES if methods_of(each) & own)


def _acts(method: str, name: str, values: Mapping[str, Any]) -> bool:
    condition = _acts_with(method, name)
    return condition is None or values.get(condition) is not None


def _acts_with(method: str, name: str) -> str | None:
    """The setting without which another changes nothing with this method."""
    settings = installed().methods.get(method)
    if not isinstance(settings, MethodSettings):
        return None
    field = str(canonical(name, method)).removeprefix(f"algo.{method}.")
    return settings.acts_with.get(field)


def readers(command: str, method: str | None, name: str) -> str:
    """Who reads a setting that this command and method do not: the end of a message."""
    commands = _commands(name)
    if command not in commands:
        who = " and ".join(f"`rto {each}`" for each in ORDER if each in commands)
        return f"is read by {who}; `rto {command}` does not read it"
    flag = "--loss" if command == "dpo" else "--algo"
    able = readers_of(name) & methods_of(command)
    always = sorted(each for each in able if _acts_with(each, name) is None)
    who = f"{flag} {', '.join(always)}" if able else "no method of this command"
    condition = _acts_with(str(method), name) if method in able else None
    rest = "does not read it" if condition is None else f"reads it where {condition} is set"
    return f"is read by {who}; {flag} {method} {rest}"


ORDER = ("sft", "reward", "dpo", "fit", "train", "generate", "eval")


def covers(part: str, name: str) -> bool:
    """Whether ``part`` is the setting, or a section that it stands in."""
    return name == part or name.startswith(f"{part}.")


Entry = TypeVar("Entry")


def _nearest(table: Mapping[str, Entry], name: str) -> Entry | None:
    """The entry of the longest name that covers this one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in table:
            return table[".".join(parts[:size])]
    return None
