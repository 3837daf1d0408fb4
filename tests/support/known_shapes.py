"""Models of known sizes as folders that hold their config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
         "max_position_embeddings": 8192, "num_key_value_heads": 8,
         "eos_token_id": 128001}  # fmt: skip
KNOWN: dict[str, dict[str, object]] = {
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "intermediate_size": 14336},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
           "intermediate_size": 8192, "tie_word_embeddings": True},
    "70b": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
            "intermediate_size": 28672},
}  # fmt: skip
"""Llama-3-8B, Llama-3.2-1B and Llama-3-70B, by their published configs."""


def write_known(name: str, root: Path) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    constants = {"mean": 0.5, "std": 2.0}
    (folder / "config.json").write_text(json.dumps({**LLAMA, **constants, **KNOWN[name]}))
    return folder
