"""The quickstart's task and tokenizer, made once for each file."""

from __future__ import annotations

import pytest
from toy_task import write
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rto.quickstart.data import ToyPaths
from rto.quickstart.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ToyPaths:
    return write(tmp_path_factory.mktemp("task"), seed=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)
