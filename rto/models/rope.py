"""Limits of a model's positions, and rotary frequencies that do not depend on other rows.

transformers chooses the frequencies of two types of rotary embedding anew in each forward, by the
longest position in it: "dynamic" (NTK) and "longrope" (Phi-3, Phi-4-mini). A row's log-probs then
depend on the rows beside it. Here they are chosen once, from the longest row that a run allows.
vLLM does the same with ``max_model_len``, so trainer, scorer and engine agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rto.errors import UserError

CHOSEN_PER_FORWARD = ("dynamic", "longrope")
CHOSEN = "chosen"
"""A type that transformers leaves alone in the forward."""
STRETCHED = ("linear", "ntk")
"""Types whose max_position_embeddings is that before scaling."""


def fix_frequencies(model: nn.Module, *, max_len: int | None) -> None:
    """Let every rotary embedding of ``model`` keep the frequencies for rows of ``max_len`` tokens.

    Without a ``max_len``, those for rows up to the length that the model was pretrained with.
    """
    for module in model.modules():
        kinds = vars(module).get("rope_type")
        if isinstance(kinds, str):
            vars(module)["rope_type"] = _fix(module, kinds, None, max_len)
        elif isinstance(kinds, Mapping):
            vars(module)["rope_type"] = {
                layer: _fix(module, kind, layer, max_len) for layer, kind in kinds.items()
            }


def _fix(module: Any, kind: str, layer: str | None, max_len: int | None) -> str:
    if kind not in CHOSEN_PER_FORWARD:
        return kind
    options = {} if layer is None else {"layer_type": layer}
    name = "inv_freq" if layer is None else f"{layer}_inv_freq"
    device = module.get_buffer(name).device
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](module.config, device, seq_len=max_len, **options)
    module.register_buffer(name, frequencies, persistent=False)
    return CHOSEN


def max_positions(config: PreTrainedConfig) -> int | None:
    """The most tokens that a row of this model may have; None where nothing bounds it (T5).

    vLLM's rule: scaling that max_position_embeddings does not hold yet is taken into account. For
    rope type "dynamic" it is not: vLLM has no frequencies beyond.
    """
    text = config.get_text_config()
    if "max_position_embeddings" not in {**text.to_dict(), **text.attribute_map}:
        return None
    longest = text.max_position_embeddings
    if not isinstance(longest, int) or longest <= 0:
        return None
    factors = [
        float(rope.get("factor") or 1.0)
        for rope in rope_parameters(text)
        if rope.get("rope_type") in STRETCHED
    ]
    return int(longest * max(factors, default=1.0))


def longest_of_short(config: PreTrainedConfig) -> int | None:
    """The most tokens of a row that rope type longrope gives its short frequencies; None for other
    types, whose frequencies no length changes within the model's positions."""
    differences = (
        rope["original_max_position_embeddings"]
        for rope in rope_parameters(config.get_text_config())
        if rope.get("rope_type") == "longrope"
    )
    return next(differences, None)


def rope_parameters(config: PreTrainedConfig) -> Iterator[Mapping[str, Any]]:
    """Those of the model, or of each type of its layers."""
    parameters = config.to_dict().get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return
    if "rope_type" in parameters:
        yield parameters
        return
    yield from (each for each in parameters.values() if isinstance(each, Mapping))


def check_positions(config: PreTrainedConfig, *, path: str, name: str, length: int) -> None:
    """Refuse rows longer than the model's positions.

    Raises:
        UserError: the setting ``name`` allows ``length`` tokens, more than the model can place.
    """
    longest = max_positions(config)
    if longest is None or length <= longest:
        return
    dynamic = any(rope.get("rope_type") == "dynamic" for rope in rope_parameters(config))
    why = (
        ": beyond it, rope type dynamic gives each length other frequencies, and a row's log-probs "
        "would depend on the rows beside it"
        if dynamic
        else ""
    )
    raise UserError(
        f"{path}: {name} is {length}, the model has max_position_embeddings {longest}{why}; set "
        f"{name} to {longest} or less"
    )
