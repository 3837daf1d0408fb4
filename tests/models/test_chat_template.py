"""Which chat template a tokenizer is used with: one of its own by name, or a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from rto.errors import UserError
from rto.models.chat_template import chosen_template


@pytest.fixture
def several() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "D", "tools": "T"}
    return tokenizer


def test_a_template_of_the_tokenizer_is_taken_by_its_name(several: PreTrainedTokenizerFast) -> None:
    assert chosen_template(several, "tools") == "T"


def test_a_file_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "x.jinja").write_text("{{ é }}\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    for tokenizer in (several, tiny_tokenizer()):
        assert chosen_template(tokenizer, "~/x.jinja") == "{{ é }}\n"


def test_a_name_that_is_neither_is_refused_with_the_names_that_are(
    several: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(UserError, match="no such file, .*: its templates are default, tools$"):
        chosen_template(several, "tool")
    with pytest.raises(UserError, match="it has no named templates$"):
        chosen_template(tiny_tokenizer(), "default")


@pytest.mark.parametrize(
    ("content", "said"), [(b" \n", "the file is empty"), (b"\xff\xfe", "cannot be read")]
)
def test_a_file_that_is_no_template_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jinja"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        chosen_template(tiny_tokenizer(), str(file))
    assert "\n" not in str(caught.value)
