"""A tiny tokenizer and tiny random models, built on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import WORDS, tiny_config, tiny_t5_tokenizer, tiny_tokenizer
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM and its tokenizer with a chat template."""
    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reward_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with head ``score`` and constants mean 0.5, std 2 in its config."""
    folder = tmp_path_factory.mktemp("tiny_reward")
    torch.manual_seed(1)
    config = tiny_config()
    config.num_labels = 1
    config.update({"mean": 0.5, "std": 2.0})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def build_tiny_t5(folder: Path, words: Sequence[str] = WORDS, *, scaled: bool = False) -> None:
    """A random T5 of Flan-T5's architecture (own head, no scaling), or of the first T5's."""
    tokenizer = tiny_t5_tokenizer(words)
    shape: Any = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "relu" if scaled else "gated-gelu",
        "tie_word_embeddings": scaled,
        "decoder_start_token_id": 0,
        "initializer_factor": 2.0 if scaled else 1.0,
    }
    config = T5Config(**shape)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = T5ForConditionalGeneration(config)
        if not scaled:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokenizer), 32) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder LM as Flan-T5 is, with dropout 0.1 in its config."""
    folder = tmp_path_factory.mktemp("tiny_t5")
    build_tiny_t5(folder)
    return folder
