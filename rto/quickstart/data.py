"""Rows of the toy task, drawn from a program that writes well-formed but careless responses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from rto.errors import UserError
from rto.quickstart.gold import gold_reward
from rto.quickstart.toy import (
    DETERMINERS,
    LENGTHS,
    MOOD_ADJECTIVES,
    MOOD_VERBS,
    MOODS,
    NOUNS,
    PLACES,
    PLAIN_ADJECTIVES,
    PLAIN_VERBS,
    PREPOSITIONS,
    RUDE,
    Request,
    all_requests,
)

LABEL_TEMPERATURE = 0.5
"""Scale of the Bradley-Terry noise, in units of the gold reward."""
RATING_NOISE = 0.5
"""Standard deviation of a rating, in the same units."""
RESPONSES = 4
"""Rated responses per prompt."""
SENTENCE_WORDS = 8
"""Usual length of a sentence, with its full stop."""


@dataclass(frozen=True)
class ToyPaths:
    """The files of the task. No prompt is in more than one of them."""

    sft: Path
    pairs: Path
    prompts: Path
    eval_prompts: Path
    feedback: Path


def write_task(
    directory: Path,
    *,
    seed: int,
    num_sft: int,
    num_pairs: int,
    num_prompts: int,
    num_eval: int,
    num_feedback: int = 0,
) -> ToyPaths:
    """Write sft.jsonl {prompt, response}, pairs.jsonl {prompt, chosen, rejected}, prompts, and
    feedback.jsonl {prompt, responses: [{text, reward}]}."""
    rng = Random(seed)
    everything, count = all_requests(), num_sft + num_pairs + num_prompts + num_eval
    if count + num_feedback > len(everything):
        raise UserError(
            f"{count + num_feedback} toy prompts asked for: there are {len(everything)} in all"
        )
    drawn = rng.sample(everything, count)
    requests = iter(drawn)
    directory.mkdir(parents=True, exist_ok=True)
    paths = ToyPaths(
        sft=directory / "sft.jsonl",
        pairs=directory / "pairs.jsonl",
        prompts=directory / "prompts.jsonl",
        eval_prompts=directory / "eval_prompts.jsonl",
        feedback=directory / "feedback.jsonl",
    )
    _write(paths.eval_prompts, ({"prompt": r.prompt} for r in islice(requests, num_eval)))
    _write(paths.prompts, ({"prompt": r.prompt} for r in islice(requests, num_prompts)))
    _write(
        paths.sft,
        ({"prompt": r.prompt, "response": demonstrate(r, rng)} for r in islice(requests, num_sft)),
    )
    _write(paths.pairs, (label_pair(r, rng) for r in islice(requests, num_pairs)))
    rest = sorted(set(everything) - set(drawn), key=lambda request: request.prompt)
    rated = rng.sample(rest, num_feedback)
    _write(paths.feedback, (rate(r, rng) for r in rated))
    return paths


def demonstrate(request: Request, rng: Random) -> str:
    """A careless response: grammatical, but often off topic, out of mood, rude or off length.

    How much care is taken differs from response to response, uniform in [0, 1].
    """
    care = rng.random()
    length = request.length if rng.random() < care else rng.choice(LENGTHS)
    words: list[str] = []
    while length - len(words) > SENTENCE_WORDS // 2:
        words += _sentence(request, care, rng)
    return " ".join(words)


def label_pair(request: Request, rng: Random) -> dict[str, str]:
    """Two responses; which one is chosen is drawn by Bradley-Terry on the gold reward."""
    first, second = demonstrate(request, rng), demonstrate(request, rng)
    margin = gold_reward(request.prompt, first) - gold_reward(request.prompt, second)
    if rng.random() >= 1 / (1 + math.exp(-margin / LABEL_TEMPERATURE)):
        first, second = second, first
    return {"prompt": request.prompt, "chosen": first, "rejected": second}


def rate(request: Request, rng: Random) -> dict[str, object]:
    """A few responses, each with its gold reward and Gaussian noise."""
    texts = [demonstrate(request, rng) for _ in range(RESPONSES)]
    rewards = [gold_reward(request.prompt, x) + rng.gauss(0, RATING_NOISE) for x in texts]
    responses = [{"text": x, "reward": round(r, 3)} for x, r in zip(texts, rewards, strict=True)]
    return {"prompt": request.prompt, "responses": responses}


def _sentence(request: Request, care: float, rng: Random) -> list[str]:
    """Seven to nine words, the last a full stop."""
    noun = rng.choice(request.nouns) if rng.random() < 0.3 + 0.7 * care else rng.choice(NOUNS)
    place = request.place if rng.random() < 0.3 + 0.6 * care else rng.choice(PLACES)
    subject = [rng.choice(DETERMINERS), *_maybe_adjective(request, care, rng), noun]
    end = [rng.choice(DETERMINERS), *_maybe_adjective(request, care, rng), place, "."]
    match rng.randrange(3):
        case 0:
            return [*subject, _verb(request, care, rng), rng.choice(PREPOSITIONS), *end]
        case 1:
            return [*subject, "is", rng.choice(PREPOSITIONS), *end]
        case _:
            pair = [_adjective(request, care, rng), "and", _adjective(request, care, rng)]
            return [*subject, "is", *pair, "."]


def _maybe_adjective(request: Request, care: float, rng: Random) -> list[str]:
    return [_adjective(request, care, rng)] if rng.random() < 0.6 else []


def _adjective(request: Request, care: float, rng: Random) -> str:
    if rng.random() > 0.4 + 0.6 * care and rng.random() < 0.4:
        return rng.choice(RUDE)
    if rng.random() < 0.4:
        return rng.choice(PLAIN_ADJECTIVES)
    return rng.choice(MOOD_ADJECTIVES[_mood(request, care, rng)])


def _verb(request: Request, care: float, rng: Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(PLAIN_VERBS)
    return rng.choice(MOOD_VERBS[_mood(request, care, rng)])


def _mood(request: Request, care: float, rng: Random) -> str:
    return request.mood if rng.random() < 0.3 + 0.6 * care else rng.choice(MOODS)


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
