"""Win rate by a pairwise judge: both orders are judged, ties count half, no verdict is guessed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from rto.data.templates import Message
from rto.errors import UserError, foreign
from rto.evaluation.statistics import Mean, bootstrap, win_rate
from rto.yaml_file import parse_yaml

Winner = Literal["model", "baseline", "tie"]
Order = Literal["model first", "baseline first"]
Ask = Callable[[Sequence[list[Message]]], Sequence[str]]
"""Conversations -> the judge's answer to each."""

FIELDS: tuple[str, ...] = ("instruction", "answer_a", "answer_b")
VERDICTS = ("a", "b", "tie")
SCORE: Mapping[Winner, float] = {"model": 1.0, "tie": 0.5, "baseline": 0.0}


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked, and the mark of each verdict in its answer."""

    name: str
    system: str
    user: str
    verdicts: Mapping[str, str]

    def ask(self, instruction: str, answer_a: str, answer_b: str) -> list[Message]:
        """The conversation; what is filled in is never read as a field itself."""
        filled = dict(zip(FIELDS, (instruction, answer_a, answer_b), strict=True))
        user = re.sub(r"\{(\w+)\}", lambda m: filled.get(m[1], m[0]), self.user)
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": user}]

    def verdict(self, text: str) -> str | None:
        """``a``, ``b`` or ``tie``; None unless the text holds exactly one kind of mark."""
        names = [name for name, mark in self.verdicts.items() if mark in text]
        return names[0] if len(names) == 1 else None


def load_judge_prompt(name: str) -> JudgePrompt:
    """A prompt of the package by name, or a YAML file of the same form by path.

    Raises:
        UserError: no such prompt, or one without a field that a pairwise judge needs.
    """
    folder = resources.files("rto.evaluation") / "prompts"
    packaged = {file.name.removesuffix(".yaml"): file for file in folder.iterdir()}
    source = packaged.get(name) or Path(name)
    with foreign(f"--judge_prompt {name:.200}: cannot be read"):
        exists = source.is_file()
    if not exists:
        known = ", ".join(sorted(packaged))
        raise UserError(f"--judge_prompt {name}: no such file, nor one of {known}")
    with foreign(f"--judge_prompt {name}: cannot be read"):
        text = source.read_text(encoding="utf-8")
    return _checked(name, parse_yaml(text, f"--judge_prompt {name}"))


@dataclass(frozen=True)
class JudgedPair:
    """A prompt and the answers of the two policies."""

    id: str | int
    instruction: str
    model: str
    baseline: str


@dataclass(frozen=True)
class Judgement:
    """One answer of a judge; ``winner`` is None where it holds no verdict."""

    id: str | int
    order: Order
    text: str
    winner: Winner | None


@dataclass(frozen=True)
class WinRate:
    """``win_rate`` is the mean over the prompts judged in both orders; None where there are none.

    ``num_unparsed`` counts the answers without a verdict, ``num_left_out`` the prompts that have
    one. ``agreement`` is the share of judged prompts with the same winner in both orders.
    """

    win_rate: Mean | None
    num_prompts: int
    num_left_out: int
    num_judgements: int
    num_unparsed: int
    agreement: float | None


def judge_pairs(pairs: Sequence[JudgedPair], prompt: JudgePrompt, ask: Ask) -> list[Judgement]:
    """The judge's answers to each pair in both orders, those to one pair side by side."""
    orders: tuple[Order, Order] = ("model first", "baseline first")
    asked = [
        prompt.ask(pair.instruction, *_in_order(pair.model, pair.baseline, order))
        for pair in pairs
        for order in orders
    ]
    texts = iter(ask(asked))
    return [_judgement(pair, order, next(texts), prompt) for pair in pairs for order in orders]


def summarise(judgements: Sequence[Judgement]) -> WinRate:
    """Win rate over prompts; a prompt without a verdict in either order is left out and counted."""
    by_prompt: dict[str | int, list[Winner | None]] = {}
    for each in judgements:
        by_prompt.setdefault(each.id, []).append(each.winner)
    judged: list[list[Winner]] = [
        [w for w in winners if w is not None] for winners in by_prompt.values()
    ]
    full = [winners for winners in judged if len(winners) == 2]
    scores = np.array([np.mean([SCORE[winner] for winner in winners]) for winners in full])
    return WinRate(
        win_rate=bootstrap(scores) if full else None,
        num_prompts=len(by_prompt),
        num_left_out=len(by_prompt) - len(full),
        num_judgements=len(judgements),
        num_unparsed=sum(each.winner is None for each in judgements),
        agreement=float(np.mean([a == b for a, b in full])) if full else None,
    )


def reward_win_rate(model: np.ndarray, baseline: np.ndarray) -> WinRate:
    """By a reward model, whose scores [N] know no order: the higher one wins."""
    wins = win_rate(model[:, None], baseline[:, None])
    return WinRate(bootstrap(wins), len(wins), 0, len(wins), 0, None)


def _judgement(pair: JudgedPair, order: Order, text: str, prompt: JudgePrompt) -> Judgement:
    first, second = _in_order("model", "baseline", order)
    winners: Mapping[str, Winner] = {"a": first, "b": second, "tie": "tie"}  # pyright: ignore[reportAssignmentType]
    verdict = prompt.verdict(text)
    return Judgement(pair.id, order, text, None if verdict is None else winners[verdict])


def _in_order(model: str, baseline: str, order: Order) -> tuple[str, str]:
    return (model, baseline) if order == "model first" else (baseline, model)


def _checked(name: str, content: object) -> JudgePrompt:
    fields = content if isinstance(content, dict) else {}
    problem = next(_problems(fields), None)
    if problem is not None:
        raise UserError(f"--judge_prompt {name}: {problem}")
    return JudgePrompt(
        Path(name).stem, fields.get("system") or "", fields["user"], dict(fields["verdicts"])
    )


def _problems(content: Mapping[object, object]) -> Iterator[str]:
    """What a pairwise judge's prompt lacks, the first thing first."""
    user, verdicts = content.get("user"), content.get("verdicts")
    if not isinstance(user, str):
        yield "needs `user`, a text with {instruction}, {answer_a} and {answer_b}"
        return
    for unknown in sorted(map(str, content.keys() - {"system", "user", "verdicts"})):
        yield f"unknown key {unknown}: it has system, user and verdicts"
    for name in FIELDS:
        if f"{{{name}}}" not in user:
            yield f"`user` has no {{{name}}}"
    if not isinstance(verdicts, dict) or set(verdicts) != set(VERDICTS):
        yield "`verdicts` needs the marks of a, b and tie"
    elif not _told_apart(list(verdicts.values())):
        yield "`verdicts`: each mark is a text that is no part of another one"
    if not isinstance(content.get("system") or "", str):
        yield "`system` is not text"


def _told_apart(marks: Sequence[object]) -> bool:
    texts = [mark for mark in marks if isinstance(mark, str) and mark]
    apart = all(a not in b for a, b in itertools.permutations(texts, 2))
    return apart and len(texts) == len(marks)
