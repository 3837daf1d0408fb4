"""The toy task: words, their grammar, and what a prompt asks for.

A prompt asks for a small description, "write 32 happy words about a cat and a boat in the
garden"; a response is a few sentences over a small vocabulary, each sentence ended by " .".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations, product

from rto.errors import UserError


class Kind(StrEnum):
    """Part of speech, with the parts that may follow it in ``FOLLOWS``."""

    START = "start"
    DETERMINER = "determiner"
    ADJECTIVE = "adjective"
    NOUN = "noun"
    PLACE = "place"
    VERB = "verb"
    IS = "is"
    PREPOSITION = "preposition"
    AND = "and"
    STOP = "stop"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FOLLOWS: Mapping[Kind, frozenset[Kind]] = {
    Kind.START: frozenset({Kind.DETERMINER}),
    Kind.DETERMINER: frozenset({Kind.ADJECTIVE, Kind.NOUN, Kind.PLACE}),
    Kind.ADJECTIVE: frozenset({Kind.NOUN, Kind.PLACE, Kind.AND, Kind.STOP}),
    Kind.NOUN: frozenset({Kind.VERB, Kind.IS, Kind.AND}),
    Kind.PLACE: frozenset({Kind.STOP, Kind.IS}),
    Kind.VERB: frozenset({Kind.PREPOSITION, Kind.STOP}),
    Kind.IS: frozenset({Kind.ADJECTIVE, Kind.PREPOSITION}),
    Kind.PREPOSITION: frozenset({Kind.DETERMINER}),
    Kind.AND: frozenset({Kind.ADJECTIVE, Kind.DETERMINER}),
    Kind.STOP: frozenset({Kind.DETERMINER}),
}

NOUNS = _words(
    "cat dog bird fox horse bear child man woman farmer baker singer boat wagon clock robot"
)
PLACES = _words("garden forest kitchen village market field tower meadow")
MOOD_ADJECTIVES = {
    "happy": _words("cheerful bright merry sunny jolly glad joyful lucky proud smiling"),
    "sad": _words("gloomy lonely tearful grey weary broken lost sorry tired weeping"),
    "calm": _words("quiet gentle soft peaceful still mild slow cool patient restful"),
    "wild": _words("fierce loud stormy fast rough bold savage restless roaring mighty"),
}
MOOD_VERBS = {
    "happy": _words("dances laughs sings plays"),
    "sad": _words("cries sighs mourns aches"),
    "calm": _words("sleeps rests dreams floats"),
    "wild": _words("jumps races howls fights"),
}
PLAIN_ADJECTIVES = _words("small big heavy young red blue green round tall thin new wooden")
PLAIN_VERBS = _words("waits walks stands works looks sits")
RUDE = _words("stupid horrid nasty silly dumb filthy rotten vile")
DETERMINERS = _words("the a one this that every")
PREPOSITIONS = _words("in near by behind beside under")
MOODS = tuple(MOOD_ADJECTIVES)
LENGTHS = (24, 32, 40, 48)
PROMPT_WORDS = ("write", "words", "about")

MOOD_OF: Mapping[str, str] = {
    word: mood
    for table in (MOOD_ADJECTIVES, MOOD_VERBS)
    for mood, words in table.items()
    for word in words
}
KIND_OF: Mapping[str, Kind] = {
    **dict.fromkeys(DETERMINERS, Kind.DETERMINER),
    **dict.fromkeys([w for ws in MOOD_ADJECTIVES.values() for w in ws], Kind.ADJECTIVE),
    **dict.fromkeys([*PLAIN_ADJECTIVES, *RUDE], Kind.ADJECTIVE),
    **dict.fromkeys(NOUNS, Kind.NOUN),
    **dict.fromkeys(PLACES, Kind.PLACE),
    **dict.fromkeys([w for ws in MOOD_VERBS.values() for w in ws], Kind.VERB),
    **dict.fromkeys(PLAIN_VERBS, Kind.VERB),
    **dict.fromkeys(PREPOSITIONS, Kind.PREPOSITION),
    "is": Kind.IS,
    "and": Kind.AND,
    ".": Kind.STOP,
}
VOCABULARY = (*PROMPT_WORDS, *MOODS, *map(str, LENGTHS), *KIND_OF)

PROMPT = "write {length} {mood} words about a {first} and a {second} in the {place}"
_PROMPT = re.compile(
    r"write (?P<length>\d+) (?P<mood>\w+) words about a (?P<first>\w+) and a (?P<second>\w+) "
    r"in the (?P<place>\w+)"
)


@dataclass(frozen=True)
class Request:
    """What one prompt asks for."""

    length: int
    mood: str
    nouns: tuple[str, str]
    place: str

    @property
    def prompt(self) -> str:
        first, second = self.nouns
        return PROMPT.format(
            length=self.length, mood=self.mood, first=first, second=second, place=self.place
        )


def parse_prompt(prompt: str) -> Request:
    """The request in a prompt; inverse of ``Request.prompt``."""
    match = _PROMPT.fullmatch(prompt.strip())
    if match is None or match["mood"] not in MOODS:
        pattern = PROMPT.format(
            length="N", mood="|".join(MOODS), first="NOUN", second="NOUN", place="PLACE"
        )
        raise UserError(f"not a prompt of the toy task: {prompt!r}; write it as {pattern!r}")
    return Request(
        length=int(match["length"]),
        mood=match["mood"],
        nouns=(match["first"], match["second"]),
        place=match["place"],
    )


def all_requests() -> list[Request]:
    """Every request: lengths x moods x ordered pairs of nouns x places."""
    return [
        Request(length=length, mood=mood, nouns=nouns, place=place)
        for length, mood, nouns, place in product(LENGTHS, MOODS, permutations(NOUNS, 2), PLACES)
    ]
