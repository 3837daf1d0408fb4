"""The gold reward as a reward source: ``--reward.func_path rto/quickstart/reward_func.py``."""

from __future__ import annotations

from collections.abc import Sequence

from rto.quickstart.gold import gold_reward
from rto.quickstart.tokenizer import ASSISTANT, SPECIAL


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str | None]
) -> list[float]:
    """One gold reward per query; a query is the whole conversation, special tokens included."""
    del prompts, labels
    return [gold_reward(*_split(query)) for query in queries]


def _split(query: str) -> tuple[str, str]:
    """Prompt and response of a one-turn conversation."""
    prompt, _, response = query.partition(ASSISTANT)
    return _plain(prompt), _plain(response)


def _plain(text: str) -> str:
    """Words alone: EoS follows the last word of a query without a space."""
    for token in SPECIAL:
        text = text.replace(token, " ")
    return " ".join(text.split())
