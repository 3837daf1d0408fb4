"""Names -> methods: what is behind ``--algo NAME`` and ``--loss NAME``, and `rto methods`.

A builder is registered as an entry point of the group ``rto.methods``; any installed package can
add one. It reads the configuration once; the method it returns is a plain frozen value.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from rto.cli.one_line_parser import OneLineParser
from rto.errors import UserError
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
    method: PolicyMethod = _point(name).load()(RunConfig(), _NoTokenizer())
    return method.card


def takes_token_reward(name: str) -> bool:
    """Whether a DPO policy, where one is given, pays this method's tokens."""
    from rto.types import Role

    method: PolicyMethod = _point(name).load()(RunConfig(dpo=DPOModel("given")), _NoTokenizer())
    return Role.DPO in method.roles


def main(argv: Sequence[str]) -> int:
    """`rto methods [--json]`: what is installed."""
    parser = OneLineParser(prog="rto methods", description="List the installed methods.")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args(argv)
    from rto.tracking.quiet import quiet

    quiet(None)
    rows = [_describe(point) for point in _installed().values()]
    rows.sort(key=lambda row: (FEEDBACK_ORDER.index(row["feedback"]), row["online"], row["name"]))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console

    from rto.tracking.console import table

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table([_shown(row) for row in rows], title="rto train | fit --algo NAME"))
    return 0


WIDTH = 120
"""Columns of the table where nobody's terminal sets them."""
REPLACED = {
    name: f"NVIDIA's name; write --algo reward_aware --algo.reward_aware.distance {distance}"
    for name, distance in (
        ("rpo_bwd_kl", "kl_target_policy"),
        ("rpo_fwd_kl", "kl_policy_target"),
        ("rpo_sq", "sqloo"),
    )
}
"""Names of other programs, with what they are called here: `rpo` is another method."""

FEEDBACK_ORDER = ("demonstrations", "pairs", "rewards")


def _point(name: str) -> EntryPoint:
    known = _installed()
    if name in REPLACED:
        raise UserError(f"algo.name is {name!r}: {REPLACED[name]}")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(known))}"
        raise UserError(f"algo.name is {name!r}: {hint}")
    return known[name]


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _describe(point: EntryPoint) -> dict[str, Any]:
    from rto.types import Role

    method: PolicyMethod = point.load()(RunConfig(), _NoTokenizer())
    card, roles = method.card, method.roles
    return {
        "name": card.name,
        "title": card.title,
        "paper": card.paper,
        "feedback": card.feedback,
        "offline": "offline" in card.modes,
        "online": "online" in card.modes,
        "critic": Role.CRITIC in roles,
        "reference": bool({Role.REFERENCE, Role.UNRELATED} & roles),
        "dpo model": Role.DPO in roles,
    }


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """The row in few columns."""
    modes = [mode for mode in ("offline", "online") if row[mode]]
    needs = [name for name in ("critic", "reference", "dpo model") if row[name]]
    return {
        "method": row["name"],
        "name": row["title"],
        "paper": row["paper"],
        "learns from": row["feedback"],
        "trains": ", ".join(modes),
        "needs": ", ".join(needs),
    }


class _NoTokenizer:
    """Stands in where only a method's description is wanted."""

    eos_token_id = None

    def __len__(self) -> int:
        return 0
