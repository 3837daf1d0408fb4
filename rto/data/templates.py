"""Turn a prompt and its response into text, and the text into token ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rto.data.chat import ROLES, SAID, Chat, Message, Where, without_nulls
from rto.data.sources import require_text
from rto.errors import UserError
from rto.models.continuation import Continuation
from rto.models.load import generation_stops, is_encoder_decoder, load_tokenizer
from rto.sections.data import INPUT_TEMPLATES, Data

__all__ = ["Answered", "Message", "Template", "Where", "check_messages", "load_template"]


MUST_SPEAK = {"user": "the question", "assistant": "the answer"}
"""Roles whose turns are never empty, and what is missing there."""


class Answered(NamedTuple):
    """A response's tokens without the one that ends it, and that one."""

    ids: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class Template:
    """``input_template`` formats a prompt that is a string; the chat template, where it is on,
    then wraps that string as the user's turn, or renders a list of {role, content} messages.

    A decoder goes on from the prompt; an encoder (``encoder_decoder``) reads it as a text of its
    own, closed as the tokenizer closes texts. ``stops`` are the ends of a response that the
    model's generation config names.
    """

    tokenizer: PreTrainedTokenizerBase
    input_template: str | None = None
    apply_chat_template: bool = False
    encoder_decoder: bool = False
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.apply_chat_template:
            Chat(self.tokenizer)
        for stop in self.stops:
            if self.tokenizer.convert_ids_to_tokens(stop) is None:
                raise UserError(
                    f"{self.tokenizer.name_or_path}: eos_token_id of its generation config has "
                    f"{stop}, which is no token of its tokenizer: take both of one model"
                )

    @property
    def eos_token_id(self) -> int:
        """The token that ends a response: the one that the chat template writes, where it is on
        and writes one, else the tokenizer's EoS."""
        end = self._chat.turn_end if self.apply_chat_template and self._chat else None
        return self._tokenizer_eos if end is None else end

    @functools.cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """All tokens that end a response: ``eos_token_id`` first, then the chat template's, the
        tokenizer's and the generation config's."""
        end = None if self._chat is None else self._chat.turn_end
        own = [self.eos_token_id, *([] if end is None else [end]), self._tokenizer_eos]
        return tuple(dict.fromkeys([*own, *self.stops]))

    @property
    def said_ends(self) -> str | None:
        """One line, where the tokenizer, the chat template and the generation config differ."""
        first, *others = (str(x) for x in self.token_texts(self.stop_token_ids).values())
        if not others:
            return None
        source = "the tokenizer's EoS"
        if self.eos_token_id != self._tokenizer_eos:
            source = "the chat template's end of turn"
        return (
            f"a response ends with {first} ({source}); sampling stops at {', '.join(others)} too "
            "(chat template, tokenizer, generation config)"
        )

    @property
    def bos_token_id(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        assert bos is None or isinstance(bos, int)
        return bos

    def token_texts(self, ids: Sequence[int]) -> dict[int, str]:
        """Single tokens as they are written in a text."""
        return {i: str(self.tokenizer.convert_ids_to_tokens(i)) for i in ids}

    def prompt(self, value: object, where: Where) -> str:
        """The prompt as the model sees it, up to where its response begins."""
        if not self.apply_chat_template:
            return self._from_string(value, where)
        messages = self._messages(value, where)
        if messages[-1]["role"] == "assistant":
            raise where.error("ends with an assistant turn: a prompt ends before it")
        return self._own_chat.prompt(messages, where)

    def response(self, value: object, response: str, where: Where) -> str:
        """The response as it follows this prompt: as the chat template renders it, or a named
        input template has it."""
        if self.apply_chat_template:
            messages = self._messages(value, where)
            prompt = self._own_chat.prompt(messages, where)
            return self._own_chat.answer(messages, response, prompt, where)
        named = INPUT_TEMPLATES.get(self.input_template or "")
        joined = named is not None and not self.encoder_decoder
        return named.response.replace("{}", response, 1) if named and joined else response

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a prompt with the tokenizer's own special tokens, each of them once: a chat
        template writes them, and a prompt that it has rendered holds them already."""
        rendered = self.apply_chat_template or self._looks_rendered(text)
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=not rendered)["input_ids"])
        if not self.encoder_decoder and not rendered and self._closes and ids:
            ids.pop()
        bos = self.bos_token_id
        while bos is not None and ids[:2] == [bos, bos]:
            ids.pop(0)
        return tuple(ids)

    def cut_prompt(self, ids: tuple[int, ...], size: int) -> tuple[int, ...]:
        """``size`` of a prompt's ids: the first, or where the tokenizer's ``truncation_side`` is
        left, the last. As when the tokenizer truncates, what it puts around a text stays: BoS, and
        an encoder-decoder model's EoS.

        OpenRLHF, and with it the code of RTO's authors, cuts prompts by the tokenizer.
        """
        first = int(ids[:1] == (self.bos_token_id,))
        last = len(ids) - (self.encoder_decoder and self._closes)
        room = max(size - first - (len(ids) - last), 0)
        if self.tokenizer.truncation_side == "left":
            kept = ids[max(last - room, first) : last]
        else:
            kept = ids[first : min(first + room, last)]
        return (*ids[:first], *kept, *ids[last:])

    def cut_text(self, text: str, ids: tuple[int, ...]) -> str:
        """What ``cut_prompt`` has left of a prompt's text, with the special tokens that the text
        itself holds."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        if ids[:1] == (self.bos_token_id,) and not text.startswith(str(bos)):
            ids = ids[1:]
        if ids[-1:] == (self._tokenizer_eos,) and not text.endswith(str(eos)):
            ids = ids[:-1]
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Ids up to and without the first token that ends a response. Tokenised apart from the
        prompt, as sampling sees them: the prompt's ids are a prefix of the conversation's by
        construction, and nothing comes between."""
        ids = self._following(text)
        return tuple(ids[: self._end(ids)])

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a whole text, which may hold several turns, without BoS and without its last
        end."""
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._unclosed(ids[1:] if ids[:1] == (self.bos_token_id,) else ids)

    def whole_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a whole text as a model reads it, without its last end."""
        return self._unclosed(self.prompt_ids(text))

    def encode_prompt(self, value: object, where: Where) -> tuple[int, ...]:
        """A row's prompt as token ids.

        Raises:
            UserError: it cannot be rendered, or nothing of it is left in tokens.
        """
        return self.demand_tokens(self.prompt_ids(self.prompt(value, where)), where)

    def encode_response(self, value: object, response: str, where: Where) -> Answered:
        """A row's response as token ids; it ends as it is written to, or with ``eos_token_id``.

        Raises:
            UserError: nothing of it is left in tokens, or it goes on behind a token that ends it.
        """
        ids = self._following(self.response(value, response, where))
        place = self._end(ids)
        if self.continuation.decode(ids[place:]).strip():
            end = self.token_texts(ids[place : place + 1])[ids[place]]
            raise where.error(
                f"has an answer that holds {end}, which ends a response, and goes on behind it: "
                "repair or drop the row"
            )
        if not ids[:place]:
            raise where.error("has an answer that becomes no token: repair or drop the row")
        return Answered(tuple(ids[:place]), ids[place] if place < len(ids) else self.eos_token_id)

    def pair_ids(
        self, prompt: str, response: str, *, finished: bool | None = None
    ) -> tuple[int, ...]:
        """What a reward model reads of a prompt's text and its response's: the ids of both end to
        end, as in training.

        The token that ends a response stays where the text holds it (``finished`` None), is put
        there (True) or left out (False); blanks that a chat template writes behind it are dropped.
        """
        ids = self._following(response)
        place = self._end(ids)
        if not self.continuation.decode(ids[place:]).strip():
            ends = ids[place : place + 1] or [self.eos_token_id] * (finished is True)
            ids = [*ids[:place], *(ends if finished is not False else [])]
        return (*self.prompt_ids(prompt), *ids)

    def demand_tokens(self, ids: tuple[int, ...], where: Where) -> tuple[int, ...]:
        """Refuse a prompt of which only special tokens are left."""
        unknown = self.tokenizer.unk_token_id
        special = [token for token in self.tokenizer.all_special_ids if token != unknown]
        if set(ids).issubset(special):
            raise where.error(
                f"becomes no token of {self.tokenizer.name_or_path}'s tokenizer: repair or drop "
                "the row"
            )
        return ids

    def demand_prompt(self, where: Where, remedy: str) -> None:
        """Refuse a row without a prompt of its own if the model or the template needs one."""
        if self.apply_chat_template:
            raise where.error(f"is text without a prompt: {remedy} for the chat template")
        if self.encoder_decoder:
            raise where.error(f"is text without a prompt: {remedy} for an encoder-decoder model")

    @functools.cached_property
    def continuation(self) -> Continuation:
        """The tokenizer's ``Continuation``, for a text that continues a prompt."""
        return Continuation(self.tokenizer)

    @functools.cached_property
    def _chat(self) -> Chat | None:
        """The chat template, whether it is on or not; None where there is none to be told."""
        held = self.tokenizer.chat_template
        known = bool(held) and not (isinstance(held, dict) and "default" not in held)
        return Chat(self.tokenizer) if known else None

    @property
    def _own_chat(self) -> Chat:
        assert self._chat is not None
        return self._chat

    @property
    def _tokenizer_eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        return eos

    @functools.cached_property
    def _closes(self) -> bool:
        """Whether the tokenizer adds EoS to a text, as T5-like ones do."""
        ids = [self.tokenizer("a", add_special_tokens=x)["input_ids"] for x in (True, False)]
        return len(ids[0]) > len(ids[1]) and ids[0][-1] == self._tokenizer_eos

    def _looks_rendered(self, text: str) -> bool:
        """A prompt that the chat template would have ended so."""
        marker = "" if self._chat is None else self._chat.reply_marker
        return bool(marker) and text.endswith(marker)

    def _following(self, text: str) -> list[int]:
        if self.encoder_decoder:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self.continuation.encode(text)

    def _end(self, ids: Sequence[int]) -> int:
        """The place of the first token that ends a response; behind all where there is none."""
        return next((i for i, token in enumerate(ids) if token in self.stop_token_ids), len(ids))

    def _unclosed(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Without the ends of a response, and the blanks behind them, that the ids end in."""
        for place in range(len(ids) - 1, -1, -1):
            if ids[place] in self.stop_token_ids:
                ids = ids[:place]
            elif self.continuation.decode(ids[place:]).strip():
                break
        return ids

    def _from_string(self, value: object, where: Where) -> str:
        if isinstance(value, list):
            raise where.error("is a list of messages: switch data.apply_chat_template on")
        text = require_text(value, source=where.source, row=where.row, field=where.field)
        named = INPUT_TEMPLATES.get(self.input_template or "")
        form = self.input_template if named is None else named.prompt
        return text if form is None else form.replace("{}", text, 1)

    def _messages(self, value: object, where: Where) -> list[Message]:
        if not isinstance(value, list):
            return [{"role": "user", "content": self._from_string(value, where)}]
        if self.input_template is not None:
            raise where.error("is a list of messages, which data.input_template cannot format")
        return check_messages(value, where)


def load_template(path: str, data: Data, *, chat: bool | None = None) -> Template:
    """The template of a model by ``data``'s settings. ``chat`` says whether its chat template is
    applied; None applies one that is there.

    Raises:
        UserError: there is no such chat template, or one was chosen that is not applied.
    """
    tokenizer = load_tokenizer(path, chat_template=data.chat_template)
    if chat is False and data.chat_template is not None:
        raise UserError(
            f"data.chat_template is {data.chat_template}, but no chat template is applied: switch "
            "data.apply_chat_template on"
        )
    return Template(
        tokenizer,
        data.input_template,
        bool(tokenizer.chat_template) if chat is None else chat,
        encoder_decoder=is_encoder_decoder(path),
        stops=generation_stops(path),
    )


def check_messages(value: object, where: Where) -> list[Message]:
    """A non-empty list of messages, each with a role and a text; keys without a value are left
    out, and texts in content parts are joined."""
    if not isinstance(value, list) or not value:
        raise where.error("is not a list of messages: repair or drop the row")
    return [_checked(message, number, where) for number, message in enumerate(value)]


def _checked(message: object, number: int, where: Where) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        keys = (
            f" (its keys: {', '.join(map(str, message))})" if isinstance(message, Mapping) else ""
        )
        raise where.error(
            f"message {number} is not a {{role, content}} pair{keys}: repair or drop the row"
        )
    told = without_nulls(message)
    content = told.get("content")
    if isinstance(content, list):
        told["content"] = _joined_parts(content)
    for key in ("role", "content"):
        if not isinstance(told.get(key), str):
            raise where.error(
                f"message {number}: {key} is not text ({message[key]!r:.60}): repair or drop the "
                "row"
            )
    if told["role"] not in ROLES:
        raise where.error(f"message {number}: role is {told['role']!r}: one of {', '.join(ROLES)}")
    missing = MUST_SPEAK.get(told["role"])
    if missing and not told["content"].strip() and not any(told.get(key) for key in SAID):
        raise where.error(f"message {number}: content is empty: write {missing} or drop the row")
    return told


def _joined_parts(parts: Sequence[object]) -> str | None:
    """The text of content parts; None where one of them is something else, as an image."""
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    kinds = {part.get("type", "text") for part in parts if isinstance(part, Mapping)}
    if not texts or kinds - {"text"} or not all(isinstance(text, str) for text in texts):
        return None
    return "".join(map(str, texts))
