"""Names -> methods: what is behind ``--algo NAME`` and ``--loss NAME``.

A builder is registered as an entry point of the group ``rto.methods``; any installed package can
add one. It reads the configuration once; the method it returns is a plain frozen value.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol

from rto.errors import UserError, nearest
from rto.sections.run_config import RunConfig
from rto.sections.training import DPOModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import Card, Mode, PolicyMethod


GROUP = "rto.methods"


class Builder(Protocol):
    """What an entry point of the group ``rto.methods`` loads."""

    def __call__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PolicyMethod: ...


def build(
    name: str, config: RunConfig, tokenizer: PreTrainedTokenizerBase, *, mode: Mode
) -> PolicyMethod:
    """The method of this name, for training in this mode.

    Raises:
        UserError: no installed package has it, it takes other settings, or it does not train so.
    """
    builder: Builder = _point(name).load()
    try:
        method = builder(config, tokenizer)
    except ValueError as error:
        raise UserError(f"algo {name}: {error}") from error
    if mode not in method.card.modes:
        command = "rto fit" if mode == "online" else "rto train"
        raise UserError(f"algo {name} does not train {mode}: use `{command} --algo {name}`")
    return method


def card(name: str) -> Card:
    """What `rto methods` says of the method.

    Raises:
        UserError: no installed package has it.
    """
    method: PolicyMethod = _point(name).load()(RunConfig(), NoTokenizer())
    return method.card


def takes_token_reward(name: str) -> bool:
    """Whether a DPO policy, where one is given, pays this method's tokens."""
    from rto.types import Role

    method: PolicyMethod = _point(name).load()(RunConfig(dpo=DPOModel("given")), NoTokenizer())
    return Role.DPO in method.roles


REPLACED = {
    name: f"NVIDIA's name; write --algo reward_aware --algo.reward_aware.distance {distance}"
    for name, distance in (
        ("rpo_bwd_kl", "kl_target_policy"),
        ("rpo_fwd_kl", "kl_policy_target"),
        ("rpo_sq", "sqloo"),
    )
}
"""Names of other programs, with what they are called here: `rpo` is another method."""


def _point(name: str) -> EntryPoint:
    known = installed()
    if name in REPLACED:
        raise UserError(f"algo.name is {name!r}: {REPLACED[name]}")
    if name not in known:
        hint = nearest(name, known) or f"one of {', '.join(sorted(known))}"
        raise UserError(f"algo.name is {name!r}: {hint}")
    return known[name]


def installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


class NoTokenizer:
    """Stands in where only a method's description is wanted."""

    eos_token_id = None

    def __len__(self) -> int:
        return 0
