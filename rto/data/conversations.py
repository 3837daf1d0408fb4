"""Split a prompt and a response that may be a conversation into prompt and answer.

Turns between the prompt and the last answer become part of the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rto.data.chat import SAID
from rto.data.sources import require_text
from rto.data.templates import Message, Where, check_messages


def split_conversation(prompt: object, response: object, at: Where) -> tuple[object, str]:
    """(prompt, answer): what a model is asked, and the text that it answers.

    ``prompt`` is a text, a list of messages, or None where the response holds it. ``response`` is
    a text, or a list of messages: the assistant's answer alone, the turns that follow the prompt,
    or the whole conversation. A prompt that nothing is added to comes back as it is.

    Raises:
        UserError: an empty answer, a last turn that is not the assistant's, a role that nobody
            knows, or turns that do not go on from the prompt. ``at`` is the response's place.
    """
    if not isinstance(response, list):
        if prompt is None:
            raise at.error("is no list of messages, and the row has no prompt beside it")
        return prompt, require_text(response, source=at.source, row=at.row, field=at.field)
    *turns, last = check_messages(response, at)
    number = len(turns)
    if last["role"] != "assistant":
        raise at.error(
            f"message {number} is a turn of {last['role']!r}: an answer is the assistant's; end "
            "the list with it or drop the row"
        )
    if not last["content"].strip():
        raise at.error(f"message {number}: content is empty: write the answer or drop the row")
    for key in SAID:
        if last.get(key):
            _tell_left_out(at.source, key)
    return _asked(prompt, turns, at), last["content"]


@functools.cache
def _tell_left_out(source: str, key: str) -> None:
    """Once for a file and a key: an answer is its text, calls of tools beside it are no part."""
    print(f"{source}: {key!r} of answers is left out: only their content is trained on")


def _asked(prompt: object, turns: list[Message], at: Where) -> object:
    """The prompt with the turns that come before the answer, each of them once."""
    if prompt is None:
        if not turns:
            raise at.error("is an answer alone, and the row has no prompt beside it")
        return turns
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    (ours, question), (theirs, said) = _without_system(asked), _without_system(turns)
    if _texts(said[: len(question)]) == _texts(question):
        if ours and theirs and _texts(ours) != _texts(theirs):
            raise at.error("has another system turn than the prompt: keep one of them")
        added = said[len(question) :]
        return [*(theirs or ours), *question, *added] if added or theirs and not ours else prompt
    if not turns:
        return prompt
    if theirs or (said[0]["role"] == "user" and asked[-1]["role"] != "assistant"):
        raise at.error(
            f"message {len(theirs)} does not go on from the prompt: begin with the prompt, or "
            "with what follows it"
        )
    return [*asked, *turns]


def _without_system(turns: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """(the system turns that a conversation begins with, the others)."""
    others = (i for i, turn in enumerate(turns) if turn["role"] not in ("system", "developer"))
    number = next(others, len(turns))
    return turns[:number], turns[number:]


def _texts(turns: Sequence[Message]) -> list[tuple[str, str]]:
    """Who says what, whatever white space stands around it."""
    return [(turn["role"], turn["content"].strip()) for turn in turns]
