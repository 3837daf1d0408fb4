"""Which settings each command and method reads: the one table of it.

A name stands for all settings below it, and the longest name decides. A setting that no entry of
``COMMANDS`` covers is read by every command; one that none of ``METHODS`` covers is read by all
methods of its commands, and a method of another package reads every setting of its command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OFFLINE = frozenset({"sft", "reward", "dpo", "fit"})
ONLINE = frozenset({"train"})
TRAINING = OFFLINE | ONLINE
FIT = frozenset({"fit"})
RATED_OR_ONLINE = frozenset({"fit", "train"})
REFERENCED = frozenset({"dpo", "fit", "train"})
POLICIES = frozenset({"sft", "dpo", "fit", "train"})
PAIRED = frozenset({"reward", "dpo", "fit"})
SAMPLING = frozenset({"generate", "eval"})
NONE: frozenset[str] = frozenset()

COMMANDS: dict[str, frozenset[str]] = {
    "actor": TRAINING,
    "actor.eps_clip": ONLINE,
    "actor.eps_clip_low_high": ONLINE,
    "actor.dual_clip": ONLINE,
    "actor.entropy_coef": ONLINE,
    "critic": RATED_OR_ONLINE,
    "critic.value_clip": ONLINE,
    "critic.freezing_steps": ONLINE,
    "ref": REFERENCED,
    "reward": ONLINE,
    "dpo": ONLINE,
    "preference": frozenset({"dpo", "fit"}),
    "preference.loss": frozenset({"dpo"}),
    "algo": RATED_OR_ONLINE,
    "algo.advantage": ONLINE,
    "algo.kl": ONLINE,
    "algo.loss_reduction": ONLINE,
    "algo.ptx_coef": ONLINE,
    "algo.dpo_reward_scale": ONLINE,
    "algo.dpo_reward_clip": ONLINE,
    "algo.dpo_reward_variant": ONLINE,
    "algo.authors_code": FIT,
    "rollout": ONLINE,
    "rollout.max_tokens_per_gpu": TRAINING,
    "train": TRAINING,
    "train.num_episodes": ONLINE,
    "train.colocate_all": ONLINE,
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
    "plan": TRAINING,
    "ckpt": TRAINING,
    "eval": OFFLINE,
    "logger": TRAINING,
    "generate": frozenset({"generate"}),
}
"""Setting -> the commands that read it. `rto compare` runs several, and reads what any does."""

COMPARE = "compare"
"""Its flags are for several methods at once: each takes what it reads."""
EVAL_ENGINE = ("vllm", "ref", "rollout.max_tokens_per_gpu")
"""`rto eval` starts engines and scorers of a run."""

PAIRS = frozenset({"dpo", "ipo", "ipo_sum", "rdpo", "simpo", "tdpo1", "tdpo2"})
RATED = frozenset({"rpo", "dro", "kto", "reward_aware"})
CRITIC_FREE = frozenset({"reinforce_pp", "reinforce_baseline", "rloo", "grpo", "dr_grpo"})
WITH_CRITIC = frozenset({"ppo", "rto"})
POLICY_GRADIENT = WITH_CRITIC | CRITIC_FREE
KNOWN = PAIRS | RATED | POLICY_GRADIENT | {"sft", "reward"}

METHODS: dict[str, frozenset[str]] = {
    "actor.eps_clip": POLICY_GRADIENT,
    "actor.eps_clip_low_high": POLICY_GRADIENT,
    "actor.dual_clip": POLICY_GRADIENT,
    "actor.entropy_coef": POLICY_GRADIENT,
    "critic": WITH_CRITIC | {"dro"},
    "critic.value_clip": WITH_CRITIC,
    "ref.model_name_or_path": KNOWN - {"sft", "reward", "simpo"},
    "reward.coef": POLICY_GRADIENT,
    "reward.clip_range": POLICY_GRADIENT,
    "dpo": CRITIC_FREE | {"rto"},
    "preference": NONE,
    "preference.loss": PAIRS,
    "preference.beta": PAIRS,
    "preference.nll_loss_coef": PAIRS,
    "preference.label_smoothing": frozenset({"dpo", "simpo"}),
    "preference.alpha": frozenset({"rdpo", "tdpo2"}),
    "preference.gamma": frozenset({"simpo"}),
    "preference.gamma_beta_ratio": frozenset({"simpo"}),
    "algo.advantage": POLICY_GRADIENT,
    "algo.advantage.lambd": WITH_CRITIC,
    "algo.kl": POLICY_GRADIENT,
    "algo.loss_reduction": POLICY_GRADIENT,
    "algo.dpo_reward_scale": CRITIC_FREE | {"rto"},
    "algo.dpo_reward_clip": CRITIC_FREE | {"rto"},
    "algo.dpo_reward_variant": CRITIC_FREE | {"rto"},
    "algo.rpo_beta": frozenset({"rpo"}),
    "algo.rpo": frozenset({"rpo"}),
    "algo.dro": frozenset({"dro"}),
    "algo.kto": frozenset({"kto"}),
    "algo.reward_aware": frozenset({"reward_aware"}),
    "algo.authors_code": frozenset({"rpo", "dro", "kto"}),
    "data.on_few_responses": RATED,
    "data.reward_scaling": RATED,
    "data.output_key": frozenset({"sft"}),
    "data.prompt_key": PAIRS | {"reward"},
    "data.chosen_key": PAIRS | {"reward"},
    "data.rejected_key": PAIRS | {"reward"},
}
"""Setting -> the methods that read it. tests/cli/test_reads.py compares it with the builders."""

TOKEN_REWARD = "dpo.model_name_or_path"
"""The critic-free methods read RTO's token reward where this is set."""
OF_TOKEN_REWARD = (
    "algo.dpo_reward_scale",
    "algo.dpo_reward_clip",
    "algo.dpo_reward_variant",
    "dpo.ref_model_name_or_path",
)


def method_of(command: str, values: Mapping[str, Any]) -> str | None:
    """The method that a command with these settings runs; None where it runs none, or several."""
    if command in ("sft", "reward"):
        return command
    if command == "dpo":
        return values.get("preference.loss", "dpo")
    return values.get("algo.name", "ppo") if command in RATED_OR_ONLINE else None


def reads(command: str, method: str | None, name: str, values: Mapping[str, Any]) -> bool:
    """Whether the setting acts in this command with this method.

    Args:
        method: None for any method of the command.
        values: what is set, by dotted name.
    """
    if command == COMPARE:
        return any(reads(each, None, name, values) for each in TRAINING | {"eval"})
    if command == "eval" and any(covers(part, name) for part in EVAL_ENGINE):
        return True
    if command not in _found(COMMANDS, name, frozenset({command})):
        return False
    if method is None:
        return bool(_found(METHODS, name, KNOWN) & methods_of(command))
    return _method_reads(method, name, values)


def _method_reads(method: str, name: str, values: Mapping[str, Any]) -> bool:
    """A method of another package reads every setting of its command."""
    if method not in KNOWN:
        return True
    if method in CRITIC_FREE and name in OF_TOKEN_REWARD:
        return values.get(TOKEN_REWARD) is not None
    return method in _found(METHODS, name, frozenset({method}))


def methods_of(command: str) -> frozenset[str]:
    """The methods of this package that a command may run."""
    if command in ("sft", "reward"):
        return frozenset({command})
    found = {"dpo": PAIRS, "fit": PAIRS | RATED | {"sft"}, "train": POLICY_GRADIENT | RATED}
    return found.get(command, KNOWN)


def readers(command: str, method: str | None, name: str) -> str:
    """Who reads a setting that this command and method do not: the end of a message."""
    commands = _found(COMMANDS, name, TRAINING)
    if command not in commands:
        who = " and ".join(f"`rto {each}`" for each in ORDER if each in commands)
        return f"is read by {who}; `rto {command}` does not read it"
    flag = "--loss" if command == "dpo" else "--algo"
    if method in CRITIC_FREE and name in OF_TOKEN_REWARD:
        return f"is read by {flag} rto; {flag} {method} reads it where {TOKEN_REWARD} is set"
    found = sorted(_found(METHODS, name, KNOWN) & methods_of(command))
    if name in OF_TOKEN_REWARD:
        found = ["rto"]
    who = f"{flag} {', '.join(found)}" if found else "no method of this command"
    return f"is read by {who}; {flag} {method} does not read it"


ORDER = ("sft", "reward", "dpo", "fit", "train", "generate", "eval")


def covers(part: str, name: str) -> bool:
    """Whether ``part`` is the setting, or a section that it stands in."""
    return name == part or name.startswith(f"{part}.")


def _found(
    table: Mapping[str, frozenset[str]], name: str, default: frozenset[str]
) -> frozenset[str]:
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in table:
            return table[".".join(parts[:size])]
    return default
