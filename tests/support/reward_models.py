"""A reward model of the quickstart's task, untrained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rto.quickstart.tokenizer import build_tokenizer


def build_reward_model(folder: Path, base: Path) -> None:
    """Of the architecture of ``base``, with random weights and head."""
    config = LlamaConfig.from_pretrained(base)
    config.num_labels = 1
    torch.manual_seed(3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    build_tokenizer(folder)
