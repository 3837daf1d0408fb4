"""Sizes of models that are known, and of the families that a run may train."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_shapes import write_known
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rto.errors import UserError
from rto.planning.shape import model_shape, shape_of


@pytest.mark.parametrize(
    ("name", "params"),
    # The counts that the models are published with.
    [("8b", 8_030_261_248), ("1b", 1_235_814_400), ("70b", 70_553_706_496)],
)
def test_a_config_alone_tells_the_size(name: str, params: int, tmp_path: Path) -> None:
    assert model_shape(str(write_known(name, tmp_path)), "policy").params == params


def test_llama_3_8b_part_by_part(tmp_path: Path) -> None:
    shape = model_shape(str(write_known("8b", tmp_path)), "policy")
    table = 128256 * 4096
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336
    assert (shape.layers, shape.hidden, shape.intermediate) == (32, 4096, 14336)
    assert (shape.q_width, shape.kv_width, shape.vocab) == (4096, 1024, 128256)
    assert (shape.embedding_params, shape.largest, shape.tied) == (table, table, False)
    assert shape.linear == 32 * layer
    assert shape.params == 2 * table + 32 * (layer + 2 * 4096) + 4096


def test_a_tied_head_is_counted_once_and_a_scalar_head_needs_none(tmp_path: Path) -> None:
    path = str(write_known("1b", tmp_path))
    policy, critic = model_shape(path, "policy"), model_shape(path, "critic")
    assert (policy.tied, policy.head) == (True, True)
    assert (critic.tied, critic.head) == (False, False)
    assert critic.params == policy.params + 2048


def test_weights_that_are_there_are_read(tiny_model_dir: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model_shape(str(tiny_model_dir), "policy").params == loaded.num_parameters()


def test_an_encoder_decoder_has_layers_of_both(tiny_t5_dir: Path) -> None:
    policy = model_shape(str(tiny_t5_dir), "policy")
    critic = model_shape(str(tiny_t5_dir), "critic")
    assert (policy.layers, policy.encoder_layers, policy.tied) == (2, 2, False)
    assert (policy.heads, policy.head_dim, policy.intermediate) == (4, 8, 64)
    assert (critic.layers, critic.encoder_layers, critic.head) == (0, 2, False)


def test_an_old_config_leaves_widths_to_its_defaults() -> None:
    config = GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=50)
    shape = shape_of(GPT2LMHeadModel(config), config)
    assert (shape.layers, shape.kv_heads, shape.head_dim, shape.intermediate) == (3, 4, 8, 128)
    # Conv1D: of attention 3 x 32 and 32, of the block 2 x 128.
    assert shape.linear == 3 * 32 * (3 * 32 + 32 + 2 * 128)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        model_shape(str(tmp_path), "policy")
