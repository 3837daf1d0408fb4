"""The gold reward of the toy task: a program that reads prompt and response, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rto.quickstart.toy import (
    FOLLOWS,
    KIND_OF,
    MOOD_OF,
    NOUNS,
    RUDE,
    Kind,
    Request,
    parse_prompt,
)

MOOD_LIMIT = 8


def gold_reward(prompt: str, response: str) -> float:
    """How well ``response`` does what ``prompt`` asks; a perfect response has 5."""
    return sum(gold_terms(parse_prompt(prompt), response.split()).values())


def gold_terms(request: Request, words: Sequence[str]) -> dict[str, float]:
    """The terms of the gold reward, each a count of words times its price."""
    content = [w for w in words if KIND_OF.get(w) in (Kind.ADJECTIVE, Kind.VERB)]
    wanted = {w for w in content if MOOD_OF.get(w) == request.mood}
    off_mood = sum(MOOD_OF.get(w, request.mood) != request.mood for w in content)
    asked = {*request.nouns, request.place}
    off_topic = sum(w in NOUNS and w not in request.nouns for w in words)
    finished = bool(words) and words[-1] == "."
    return {
        "topic": 1.0 * len(asked & set(words)),
        "off_topic": -0.1 * off_topic,
        "mood": 0.25 * min(len(wanted), MOOD_LIMIT),
        "off_mood": -0.25 * off_mood,
        "rude": -0.5 * sum(w in RUDE for w in words),
        "repeated": -0.2 * (len(content) - len(set(content))),
        "grammar": -0.25 * grammar_faults(words),
        "length": -0.05 * abs(len(words) - request.length),
        "unfinished": 0.0 if finished else -1.0,
    }


def grammar_faults(words: Sequence[str]) -> int:
    """How many neighbours do not go together; a word without a kind goes with none."""
    kinds = [KIND_OF.get(word) for word in words]
    return sum(
        after not in (FOLLOWS[before] if before else ())
        for before, after in pairwise([Kind.START, *kinds])
    )
