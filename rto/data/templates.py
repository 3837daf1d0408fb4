"""How a prompt and its response become text, and then token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rto.data.sources import require_text
from rto.errors import UserError

Message = Mapping[str, str]


@dataclass(frozen=True)
class Where:
    """The row at hand, for messages."""

    source: str
    row: int
    field: str

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.source}: row {self.row}: '{self.field}' {problem}")


@dataclass(frozen=True)
class Template:
    """``input_template`` formats a prompt that is a string; the chat template, where it is on,
    then wraps that string as the user's turn, or renders a list of {role, content} messages.

    A decoder goes on from the prompt; an encoder (``encoder_decoder``) reads it as a text of its
    own, closed as the tokenizer closes texts.
    """

    tokenizer: PreTrainedTokenizerBase
    input_template: str | None = None
    apply_chat_template: bool = False
    encoder_decoder: bool = False

    def __post_init__(self) -> None:
        if self.apply_chat_template and not self.tokenizer.chat_template:
            raise UserError(
                f"{self.tokenizer.name_or_path}: data.apply_chat_template is on, but the "
                "tokenizer has no chat template: switch it off or use data.input_template"
            )

    @property
    def eos_token_id(self) -> int:
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        return eos

    @property
    def bos_token_id(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        assert bos is None or isinstance(bos, int)
        return bos

    def prompt(self, value: object, where: Where) -> str:
        """The prompt as the model sees it, up to where its response begins."""
        if not self.apply_chat_template:
            return self._from_string(value, where)
        messages = self._messages(value, where)
        if messages[-1]["role"] == "assistant":
            raise where.error("ends with an assistant turn: a prompt ends before it")
        return self._render(messages, where, generate=True)

    def response(self, value: object, response: str, where: Where) -> str:
        """The response as the chat template renders it after this prompt.

        A template that rewrites the prompt once it is answered would train on another context
        than sampling sees: that is an error.
        """
        if not self.apply_chat_template:
            return response
        messages = self._messages(value, where)
        answered = [*messages, {"role": "assistant", "content": response}]
        prompt, full = self._render(messages, where, generate=True), self._render(answered, where)
        if not full.startswith(prompt):
            raise where.error(
                "does not begin the rendered conversation: the chat template rewrites a prompt "
                "when it is answered; give the tokenizer one that does not"
            )
        return full[len(prompt) :]

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """A chat template has written its special tokens; else the tokenizer adds its own."""
        ids = self.tokenizer(text, add_special_tokens=not self.apply_chat_template)["input_ids"]
        return tuple(ids) if self.encoder_decoder else self._without_eos(ids)

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Ids up to and without EoS. Tokenised apart from the prompt, as sampling sees them: the
        prompt's ids are a prefix of the conversation's by construction."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        return tuple(ids[: ids.index(eos)] if eos in ids else ids)

    def demand_prompt(self, where: Where, remedy: str) -> None:
        """Refuse a row whose prompt is not told apart, where the model or the template needs it."""
        if self.apply_chat_template:
            raise where.error(f"is text without a prompt: {remedy} for the chat template")
        if self.encoder_decoder:
            raise where.error(f"is text without a prompt: {remedy} for an encoder-decoder model")

    def _without_eos(self, ids: Sequence[int]) -> tuple[int, ...]:
        """T5-like tokenizers close every text with EoS; a prompt that goes on is not closed."""
        closed = not self.apply_chat_template and ids and ids[-1] == self.tokenizer.eos_token_id
        return tuple(ids[:-1] if closed else ids)

    def _from_string(self, value: object, where: Where) -> str:
        if isinstance(value, list):
            raise where.error("is a list of messages: switch data.apply_chat_template on")
        text = require_text(value, source=where.source, row=where.row, field=where.field)
        return text if self.input_template is None else self.input_template.replace("{}", text, 1)

    def _messages(self, value: object, where: Where) -> list[Message]:
        if not isinstance(value, list):
            return [{"role": "user", "content": self._from_string(value, where)}]
        if self.input_template is not None:
            raise where.error("is a list of messages, which data.input_template cannot format")
        return check_messages(value, where)

    def _render(self, messages: Sequence[Message], where: Where, *, generate: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=generate,
            )
        except TemplateError as error:
            raise where.error(
                f"does not go through the chat template of {self.tokenizer.name_or_path}: "
                f"{' '.join(str(error).split())}; repair the row, or give the tokenizer another one"
            ) from error
        assert isinstance(text, str)
        return text


def check_messages(value: object, where: Where) -> list[Message]:
    """A non-empty list of messages, each with a role and a text."""
    if not isinstance(value, list) or not value:
        raise where.error("is not a list of messages")
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise where.error(f"message {number} is not a {{role, content}} pair")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise where.error(f"message {number}: {key} is not text")
    return value
