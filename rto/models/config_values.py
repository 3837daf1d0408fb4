"""Refuse numbers in a config.json that make no sense but that transformers accepts."""

from __future__ import annotations

import math

from transformers import PreTrainedConfig

from rto.errors import UserError
from rto.models.rope import rope_parameters

COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_decoder_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
ROPE = (
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "partial_rotary_factor",
    "short_factor",
    "long_factor",
)
"""Parameters of rotary embeddings, each a number or a list of them."""
REMEDY = "repair config.json, or download the model again"


def check_values(config: PreTrainedConfig, path: str) -> None:
    """Refuse counts and rotary parameters that are not positive.

    Raises:
        UserError: names the first of them.
    """
    text = config.get_text_config()
    known = {**text.to_dict(), **text.attribute_map}
    for name in COUNTS:
        value = getattr(text, name) if name in known else None
        if isinstance(value, int) and value <= 0:
            raise UserError(f"{path}: config.json has {name} {value}: must be positive; {REMEDY}")
    start = config.to_dict().get("decoder_start_token_id")
    rows = config.to_dict().get("vocab_size")
    known = start is None or not isinstance(rows, int) or start in range(rows)
    if config.is_encoder_decoder and not known:
        raise UserError(
            f"{path}: config.json has decoder_start_token_id {start!r:.60}: must be one of its "
            f"{rows} tokens; {REMEDY}"
        )
    for rope in rope_parameters(text):
        for name in ROPE:
            value = rope.get(name)
            numbers = value if isinstance(value, list) else [value]
            if value is not None and not all(map(_is_positive, numbers)):
                raise UserError(
                    f"{path}: config.json has {name} {value!r:.60} for its rotary embedding: must "
                    f"be positive; {REMEDY}"
                )


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0
