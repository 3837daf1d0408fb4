"""Models of the test's folders, loaded in fp32."""

from __future__ import annotations

from pathlib import Path

import torch

from rto.models.load import load_language_model, load_scalar_model

IDS = torch.tensor([[1, 10, 11, 12, 13]])


def causal(path: Path, **extra):
    return load_language_model(
        str(path), dtype=torch.float32, attn_implementation="sdpa", **extra
    ).eval()


def scalar(path: Path, **extra):
    return load_scalar_model(
        str(path), dtype=torch.float32, attn_implementation="sdpa", **extra
    ).eval()
