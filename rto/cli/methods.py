"""`rto methods`: what is installed, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rto.cli.one_line_parser import OneLineParser
from rto.registry import by_default
from rto.sections.methods import installed


def main(argv: Sequence[str]) -> int:
    """`rto methods [--json]`: what is installed."""
    parser = OneLineParser(prog="rto methods", description="List the installed methods.")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args(argv)
    from rto.tracking.quiet import quiet

    quiet(None)
    for text in installed().broken.values():
        print(text, file=sys.stderr)
    rows = [_describe(name) for name in installed().methods]
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

FEEDBACK_ORDER = ("demonstrations", "pairs", "rewards")


def _describe(name: str) -> dict[str, Any]:
    from rto.types import Role

    method = by_default(name)
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
