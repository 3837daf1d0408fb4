"""Tokenise a text that continues another one, without adding or losing a space between them.

Tokenizers of the SentencePiece kind put a space before every text and remove it when they decode.
Between a prompt and its response that would add a space which nobody wrote, or lose one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PARTS = ("normalizer", "pre_tokenizer", "decoder")
LISTS = ("normalizers", "pretokenizers", "decoders")


class Continuation:
    """A tokenizer for texts that follow another: nothing is put before them, nothing taken away."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._unprefixed: Tokenizer | None = None
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            self._unprefixed = _unprefixed(tokenizer.backend_tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without the tokens that the tokenizer adds to a whole text."""
        if self._unprefixed is not None:
            return self._unprefixed.encode(text, add_special_tokens=False).ids
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text as a continuation of what comes before it; special tokens are left out."""
        if self._unprefixed is not None:
            return self._unprefixed.decode(list(ids), skip_special_tokens=True)
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _unprefixed(backend: Tokenizer) -> Tokenizer | None:
    """A copy that adds and strips no first space; None where the tokenizer does neither."""
    if not any(_edited(part, name) != part for name, part in _parts(backend).items()):
        return None
    state = json.loads(backend.to_str())
    edited = {name: _edited(state[name], name) for name in PARTS}
    copy = Tokenizer.from_str(json.dumps({**state, **edited}))
    copy.no_truncation()
    copy.no_padding()
    return copy


def _parts(backend: Tokenizer) -> dict[str, Any]:
    """What may add or strip a space, as tokenizer.json writes it; its vocabulary can be long."""
    held = dict(
        zip(PARTS, (backend.normalizer, backend.pre_tokenizer, backend.decoder), strict=True)
    )
    return {name: json.loads(part.__getstate__()) for name, part in held.items() if part}


def _edited(part: Any, place: str) -> Any:
    if part is None:
        return None
    for name in LISTS:
        if name in part:
            inner = [_edited(each, place) for each in part[name]]
            return {**part, name: [each for each in inner if each is not None]}
    match part["type"], place:
        case "Prepend", _:
            return None
        case "Metaspace", _:
            return {**part, "prepend_scheme": "never"}
        case "ByteLevel", "pre_tokenizer":
            return {**part, "add_prefix_space": False}
        case "Strip", "normalizer":
            return {**part, "strip_left": False}
        case "Strip", "decoder":
            return {**part, "start": 0}
        case _:
            return part
