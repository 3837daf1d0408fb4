"""Choose the chat template of a tokenizer."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rto.errors import UserError, foreign


def chosen_template(tokenizer: PreTrainedTokenizerBase, choice: str) -> str:
    """The text of the template that ``data.chat_template`` names.

    Raises:
        UserError: neither a template of the tokenizer nor a file that can be read.
    """
    held = tokenizer.chat_template
    names = sorted(held) if isinstance(held, dict) else []
    if isinstance(held, dict) and choice in names:
        return held[choice]
    file = Path(choice).expanduser()
    if not file.is_file():
        known = f"its templates are {', '.join(names)}" if names else "it has no named templates"
        raise UserError(
            f"data.chat_template {choice}: no such file, nor a template of "
            f"{tokenizer.name_or_path}: {known}"
        )
    with foreign(f"data.chat_template {choice}: cannot be read", "give a jinja template in UTF-8"):
        text = file.read_text(encoding="utf-8")
    if not text.strip():
        raise UserError(f"data.chat_template {choice}: the file is empty")
    return text
