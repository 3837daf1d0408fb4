"""Stored (prompt, response) rows as token ids, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from rto.data.templates import Template, Where
from rto.sections.data import Data
from rto.sections.ranges import require
from rto.types import TokenBatch, pad


@dataclass(frozen=True)
class Example:
    """One response to one prompt. ``finished`` is True where ``response_ids`` hold its end.

    ``prompt_cut`` counts: whoever reads the tokens sees no difference.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    finished: bool
    prompt_cut: bool = field(default=False, kw_only=True, compare=False)


@dataclass(frozen=True)
class Rated(Example):
    """One response to one prompt, and its reward."""

    reward: float


RatedGroup = tuple[Rated, ...]


class Pair(NamedTuple):
    """Two responses to one prompt."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True)
class Limit:
    """Longest prompt plus response, and what becomes of a prompt that leaves no room.

    ``max_prompt_len`` bounds the prompt by itself. With ``apart``, as an encoder-decoder model
    reads them, the response has what that leaves of ``max_len``, whatever its prompt has.
    """

    max_len: int
    on_long_prompt: str
    max_prompt_len: int | None = None
    apart: bool = False

    @classmethod
    def of(cls, data: Data, *, encoder_decoder: bool) -> Limit:
        """
        Raises:
            UserError: prompts are to be cut and it is not said to what length.
        """
        require(
            data.on_long_prompt != "truncate" or data.max_prompt_len is not None,
            "data.on_long_prompt is truncate and data.max_prompt_len is unset: set it to the "
            "tokens that a prompt of stored rows may keep; the response gets the others",
        )
        return cls(data.max_len, data.on_long_prompt, data.max_prompt_len, encoder_decoder)

    def admits(self, prompt_ids: Sequence[int], where: Where) -> bool:
        size, longest = len(prompt_ids), self.max_prompt_len
        too_long = longest is not None and size > longest
        if not too_long and size < self.max_len:
            return True
        if self.on_long_prompt == "error":
            limit = (
                f"data.max_prompt_len is {longest}"
                if too_long
                else f"which leaves no room for a response in data.max_len {self.max_len}"
            )
            raise where.error(
                f"has {size} tokens, {limit}: raise it or set data.on_long_prompt to "
                "filter or truncate"
            )
        return False

    def fit(
        self, prompt_ids: tuple[int, ...], template: Template, where: Where
    ) -> tuple[int, ...] | None:
        """The prompt as it is read: whole or, where that is asked for, cut; None: it is dropped."""
        size = self.max_prompt_len
        if self.on_long_prompt == "truncate" and size is not None and len(prompt_ids) > size:
            return template.demand_tokens(template.cut_prompt(prompt_ids, size), where)
        return prompt_ids if self.admits(prompt_ids, where) else None

    def example(
        self, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], *, eos: int
    ) -> Example:
        """``eos`` ends a response that fits; one that is cut ends where it was cut."""
        room = self._room(len(prompt_ids))
        if len(response_ids) < room:
            return Example(prompt_ids, (*response_ids, eos), finished=True)
        return Example(prompt_ids, response_ids[:room], finished=False)

    def _room(self, prompt_len: int) -> int:
        """Tokens that a response may have."""
        if self.apart and self.max_prompt_len is not None:
            return self.max_len - self.max_prompt_len
        return self.max_len - prompt_len


def read_responses(
    prompt: object, responses: Iterable[str], template: Template, limit: Limit, where: Where
) -> list[Example]:
    """A row's prompt with each of its responses as token ids; none where it leaves no room.

    Raises:
        UserError: the prompt or a response cannot be rendered, or becomes no token.
    """
    whole = template.encode_prompt(prompt, where)
    prompt_ids = limit.fit(whole, template, where)
    if prompt_ids is None:
        return []
    answers = (template.encode_response(prompt, text, where) for text in responses)
    examples = [limit.example(prompt_ids, answer.ids, eos=answer.end) for answer in answers]
    cut = len(prompt_ids) < len(whole)
    return [replace(x, prompt_cut=True) for x in examples] if cut else examples


def collate_groups(groups: Sequence[Sequence[Example]], *, pad_token_id: int) -> TokenBatch:
    """Groups -> TokenBatch; the examples of a group are adjacent rows with one group number.

    For pairs: row 2i is chosen, row 2i + 1 rejected.
    """
    examples = [example for group in groups for example in group]
    prompt_ids, prompt_mask = pad([x.prompt_ids for x in examples], pad_token_id, left=True)
    response_ids, response_mask = pad([x.response_ids for x in examples], pad_token_id, left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(response_ids.shape),
        finished=torch.tensor([x.finished for x in examples]),
        group=torch.tensor([i for i, group in enumerate(groups) for _ in group]),
    )
