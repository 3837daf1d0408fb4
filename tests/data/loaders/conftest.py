"""Templates of the tiny model: of plain texts, and of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.data.templates import Template
from rto.models.load import load_tokenizer


@pytest.fixture
def template(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)))


@pytest.fixture
def chat(tiny_model_dir: Path) -> Template:
    return Template(load_tokenizer(str(tiny_model_dir)), apply_chat_template=True)
