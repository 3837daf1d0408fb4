"""Numbers of a config.json that no model has."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from model_refusal import refusal
from tiny_tokenizers import tiny_config
from transformers import LlamaConfig

from rto.errors import UserError
from rto.models.config_values import check_values


def rewrite(folder: Path, **more: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


@pytest.mark.parametrize("start", [-1, 9999, "x"])
def test_a_decoder_starts_with_a_token(start: object, tiny_t5_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(tiny_t5_dir, folder)
    rewrite(folder, decoder_start_token_id=start)
    assert f"decoder_start_token_id {start!r}: must be one of" in refusal(folder)


def llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(**{**tiny_config().to_dict(), **more})


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_is_positive(name: str, value: int) -> None:
    config = llama()
    setattr(config, name, value)
    with pytest.raises(UserError, match=f"^m: config.json has {name} {value}: must be positive"):
        check_values(config, "m")


def test_a_sound_config_passes() -> None:
    check_values(llama(), "m")


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "8", True])
def test_parameters_of_rotary_embeddings_are_positive_numbers(value: object) -> None:
    config = llama()
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": value}
    with pytest.raises(UserError, match="has factor .* for its rotary embedding: must be positive"):
        check_values(config, "m")
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    check_values(config, "m")


def test_every_number_of_a_list_is_positive() -> None:
    config = llama()
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0, 2.0]}
    config.rope_parameters = rope
    check_values(config, "m")
    config.rope_parameters = {**rope, "long_factor": [1.0, -2.0]}
    with pytest.raises(UserError, match="has long_factor"):
        check_values(config, "m")
