"""Render messages with a tokenizer's chat template, and check that no turn is lost or changed."""

from __future__ import annotations

import functools
import json
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerBase

from rto.errors import UserError, foreign
from rto.text import one_line

Message = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""Those of the chat templates that models come with."""

SAID = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "audio")
"""Keys in which a turn says something beside its content."""

REASONING = "think|thinking|thought|reasoning|reflection|scratchpad"
REASONING_BLOCK = re.compile(rf"(?is)([<\[])({REASONING})[>\]].*?\1/\2[>\]]")
REASONING_END = re.compile(rf"(?i)[<\[]/({REASONING})[>\]]")
"""What templates leave out of a model's earlier turns."""

RENDER_SECONDS = 3.0
"""What one conversation may take; it takes milliseconds."""

QUESTION, ANSWER = "What is asked here?", "What is answered there."
EXCHANGE: tuple[Message, Message] = (
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": ANSWER},
)
"""A conversation of which nothing is in any template."""


@dataclass(frozen=True)
class Where:
    """The row at hand, for messages."""

    source: str
    row: int
    field: str

    def error(self, problem: str) -> UserError:
        return UserError(f"{self} {problem}")

    def __str__(self) -> str:
        return f"{self.source}: row {self.row}: '{self.field}'"


@dataclass(frozen=True)
class Chat:
    """The chat template of ``tokenizer``: one, or several of which one is its default.

    Raises:
        UserError: there is none, or none is told from the others.
    """

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        held, path = self.tokenizer.chat_template, self.tokenizer.name_or_path
        if not held:
            raise UserError(
                f"{path}: data.apply_chat_template is on, but the tokenizer has no chat template: "
                "switch it off, use data.input_template, or give data.chat_template a file"
            )
        if isinstance(held, dict) and "default" not in held:
            raise UserError(
                f"{path}: the tokenizer has several chat templates and no default: choose one with "
                f"data.chat_template ({', '.join(sorted(held))})"
            )

    def prompt(self, messages: Sequence[Message], where: Where) -> str:
        """The conversation up to where the answer begins, with all that was said in it."""
        text = self._rendered(messages, where, generate=True)
        self._demand_all(messages, text, where)
        return text

    def answer(self, messages: Sequence[Message], answer: str, prompt: str, where: Where) -> str:
        """What the template writes for the answer to ``messages``, which it renders as ``prompt``.

        A template that rewrites the prompt once it is answered would train on another context
        than sampling sees: that is an error.
        """
        answered = [*messages, {"role": "assistant", "content": answer}]
        whole = self._rendered(answered, where)
        if not whole.startswith(prompt):
            raise where.error(
                "does not begin the rendered conversation: the chat template rewrites a prompt "
                "when it is answered; give the tokenizer one that does not (data.chat_template)"
            )
        written = whole[len(prompt) :]
        if _is_in(answer, _squeezed(written)) is None:
            raise where.error(
                f"has the answer {one_line(answer, 60)!r}, of which {self._name} leaves something "
                "out: repair the row, or choose another template with data.chat_template"
            )
        return written

    @functools.cached_property
    def turn_end(self) -> int | None:
        """The token that the template writes behind an answer; None where it writes none.

        A template that refuses this conversation is left to say so of the rows.
        """
        text = self._tried(EXCHANGE) or ""
        _, found, tail = text.rpartition(ANSWER)
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"] if found else []
        return next((token for token in ids if token in self._marks), None)

    @functools.cached_property
    def reply_marker(self) -> str:
        """What the template writes where an answer is to begin; empty where that is blank."""
        asked = EXCHANGE[:1]
        before, text = self._tried(asked), self._tried(asked, generate=True)
        if before is None or text is None or not text.startswith(before):
            return ""
        marker = text[len(before) :]
        return marker if marker.strip() else ""

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the template reads content parts, [{type: text, text}], and no strings."""
        shown = (self._tried(EXCHANGE, parts=parts) or "" for parts in (False, True))
        strings, parts = (QUESTION in text and ANSWER in text for text in shown)
        return parts and not strings

    @functools.cached_property
    def _marks(self) -> frozenset[int]:
        """Tokens that no plain text is made of, without those that begin a text."""
        own = self.tokenizer
        ends_too = own.bos_token_id == own.eos_token_id
        others = (own.unk_token_id, None if ends_too else own.bos_token_id)
        every = [*own.added_tokens_decoder, *own.all_special_ids]
        return frozenset(token for token in every if token not in others)

    @property
    def _name(self) -> str:
        return f"the chat template of {self.tokenizer.name_or_path}"

    def _rendered(
        self, messages: Sequence[Message], where: Where, *, generate: bool = False
    ) -> str:
        with foreign(
            f"{where} does not go through {self._name}",
            "repair the row, or choose another template with data.chat_template",
        ):
            return self._call(messages, generate=generate, parts=self.takes_parts)

    def _tried(
        self, messages: Sequence[Message], *, generate: bool = False, parts: bool | None = None
    ) -> str | None:
        """The rendering, or None where the template refuses it."""
        try:
            with foreign(self._name):
                wanted = self.takes_parts if parts is None else parts
                return self._call(messages, generate=generate, parts=wanted)
        except UserError:
            return None

    def _call(self, messages: Sequence[Message], *, generate: bool, parts: bool) -> str:
        told = [without_nulls(message) for message in messages]
        if parts:
            told = [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in told
            ]
        with time_limit(RENDER_SECONDS):
            text = self.tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=generate
            )
        assert isinstance(text, str)
        return text

    def _demand_all(self, messages: Sequence[Message], text: str, where: Where) -> None:
        number = lost_turn(messages, text)
        if number is not None:
            role, content = messages[number]["role"], one_line(messages[number]["content"], 60)
            raise where.error(
                f"message {number} ({role}: {content!r}) is lost or changed by {self._name}: drop "
                "that turn, or choose another template with data.chat_template"
            )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError where Python code inside takes longer; only a main thread has such an alarm."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


def lost_turn(messages: Sequence[Message], text: str) -> int | None:
    """The number of a message whose text a rendering does not hold; None where it holds all.

    How much white space there is does not count, nor do reasoning blocks of the model's turns; a
    text may be written as JSON. What is found once is not found again for another turn.
    """
    left = _squeezed(text)
    by_length = sorted(range(len(messages)), key=lambda i: -len(messages[i]["content"]))
    for number in by_length:
        message = messages[number]
        place = _is_in(message["content"], left, reasoned=message["role"] == "assistant")
        if place is None:
            return number
        left = left.replace(place, "\0", 1) if place else left
    return None


def without_nulls(value: Any) -> Any:
    """Null keys equal absent ones: readers put them where other rows have a value."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _is_in(content: str, squeezed: str, *, reasoned: bool = False) -> str | None:
    """The form in which a text stands in another one."""
    texts = [content]
    if reasoned:
        texts += [REASONING_BLOCK.sub("", content), REASONING_END.split(content)[-1]]
    for each in texts:
        for form in (each, json.dumps(each, ensure_ascii=False)[1:-1], json.dumps(each)[1:-1]):
            if _squeezed(form) in squeezed:
                return _squeezed(form)
    return None


def _squeezed(text: str) -> str:
    return " ".join(text.split())
