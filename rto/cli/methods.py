"""Names -> methods: the builders behind ``--algo NAME``, and `rto methods`.

A builder is registered as an entry point of the group ``rto.methods``; any installed package can
add one. It reads the configuration once; the method it returns is a plain frozen value.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from rto.config import RunConfig
from rto.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.methods.ppo import PPO
    from rto.methods.rto import RTO
    from rto.protocols import Method

GROUP = "rto.methods"


class Builder(Protocol):
    """What an entry point of the group ``rto.methods`` loads."""

    def __call__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Method: ...


def build(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Method:
    """The method that ``algo.name`` names.

    Raises:
        UserError: no installed package has a method of this name.
    """
    name = config.algo.name
    known = _installed()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(known))}"
        raise UserError(f"algo.name is {name!r}: {hint}")
    builder: Builder = known[name].load()
    return builder(config, tokenizer)


def ppo(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PPO:
    from rto.methods.ppo import PPO

    return PPO(**_ppo_fields(config))


def rto(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RTO:
    from rto.methods.rto import RTO

    algo, own = config.algo, config.dpo.ref_model_name_or_path
    semi = algo.dpo_reward_variant == "semi"
    return RTO(
        **_ppo_fields(config),
        dpo_reward_scale=algo.dpo_reward_scale,
        dpo_reward_clip=algo.dpo_reward_clip,
        dpo_reward_variant=algo.dpo_reward_variant,
        separate_dpo_reference=own is not None and own != config.reference_path,
        segment_end_ids=segment_end_ids(tokenizer) if semi else (),
    )


def segment_end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a sentence: their text ends in . ! ? or holds a newline; and EoS.

    The RTO paper leaves the delimiters of its semi-token variant open; these are ours.
    """
    eos = tokenizer.eos_token_id
    ends = [eos] if isinstance(eos, int) else []
    for token_id in range(len(tokenizer)):
        text = str(tokenizer.decode([token_id]))
        if "\n" in text or text.rstrip().endswith((".", "!", "?")):
            ends.append(token_id)
    return tuple(sorted(set(ends)))


def main(argv: Sequence[str]) -> int:
    """`rto methods [--json]`: what is installed."""
    parser = argparse.ArgumentParser(prog="rto methods", description="List the installed methods.")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args(argv)
    rows = [_describe(name, point) for name, point in sorted(_installed().items())]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console

    from rto.tracking.console import table

    Console().print(table(rows, title="rto train --algo NAME"))
    return 0


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _describe(name: str, point: EntryPoint) -> dict[str, Any]:
    from rto.types import Role

    method = point.load()(RunConfig(), _NoTokenizer())
    return {
        "name": name,
        "title": str(method.card),
        "critic": Role.CRITIC in method.roles,
        "reference": Role.REFERENCE in method.roles,
        "dpo model": Role.DPO in method.roles,
        "reward": Role.REWARD in method.roles,
    }


class _NoTokenizer:
    """Stands in where only a method's description is wanted."""

    eos_token_id = None

    def __len__(self) -> int:
        return 0


def _ppo_fields(config: RunConfig) -> dict[str, Any]:
    algo, actor, advantage = config.algo, config.actor, config.algo.advantage
    return {
        "kl_coef": algo.kl.init_coef,
        "kl_target": algo.kl.target,
        "kl_horizon": algo.kl.horizon,
        "kl_estimator": algo.kl.estimator,
        "kl_use_loss": algo.kl.use_loss,
        "gamma": advantage.gamma,
        "lambd": advantage.lambd,
        "no_std_norm": advantage.no_std_norm,
        "clip_low_high": actor.clip_low_high,
        "dual_clip": actor.dual_clip,
        "entropy_coef": actor.entropy_coef,
        "value_clip": config.critic.value_clip,
        "reward_coef": config.reward.coef,
        "reward_clip_range": config.reward.clip_range,
        "loss_reduction": algo.loss_reduction,
        "is_correction": advantage.is_correction_type if advantage.is_correction_enable else None,
        "is_correction_threshold": advantage.is_correction_threshold,
    }
