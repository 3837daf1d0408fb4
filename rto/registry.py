"""The method that a configuration asks for: what is behind ``--algo NAME`` and ``--loss NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rto.card import Card, Mode
from rto.errors import UserError
from rto.sections.methods import Algo, MethodSettings, settings_of
from rto.sections.run_config import RunConfig
from rto.sections.training import DPOModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rto.protocols import PolicyMethod


def build(config: RunConfig, tokenizer: PreTrainedTokenizerBase, *, mode: Mode) -> PolicyMethod:
    """The method of the configuration, for training in this mode.

    Raises:
        UserError: it takes other settings, or it does not train so.
    """
    name, settings = config.algo.name, config.algo.settings
    if mode not in settings.card.modes:
        command = "rto fit" if mode == "online" else "rto train"
        raise UserError(f"algo {name} does not train {mode}: use `{command} --algo {name}`")
    if not isinstance(settings, MethodSettings):
        return settings
    try:
        return settings.build(config, tokenizer)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"algo {name}: {error}") from error


def card(name: str) -> Card:
    """What `rto methods` says of the method.

    Raises:
        UserError: no installed package has it.
    """
    return settings_of(name).card


def takes_token_reward(name: str) -> bool:
    """Whether a DPO policy, where one is given, pays this method's tokens."""
    from rto.types import Role

    return Role.DPO in by_default(name, dpo="given").roles


def by_default(name: str, dpo: str | None = None) -> PolicyMethod:
    """The method with its defaults, for what it says of itself.

    Args:
        dpo: the DPO policy of the configuration, if it has one.

    Raises:
        UserError: no installed package has it.
    """
    config = RunConfig(algo=Algo(name), dpo=DPOModel(dpo))
    return described(config, mode=card(name).modes[0])


def described(config: RunConfig, *, mode: Mode) -> PolicyMethod:
    """The method of the configuration for what it says of itself, where there is no tokenizer.

    Raises:
        UserError: it takes other settings, or it does not train so.
    """
    return build(config, cast("PreTrainedTokenizerBase", NoTokenizer()), mode=mode)


class NoTokenizer:
    """Stands in where only a method's description is wanted."""

    eos_token_id = None

    def __len__(self) -> int:
        return 0
