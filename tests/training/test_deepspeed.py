"""What the engine does beside DeepSpeed: outputs, names, weights that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from rto.training import deepspeed


@dataclass(frozen=True)
class Two:
    first: torch.Tensor
    second: torch.Tensor | None


class Giving(nn.Module):
    """Gives what it was given."""

    def forward(self, output: Any) -> Any:
        return output


def test_a_dataclass_passes_through_deepspeed_as_a_dict() -> None:
    wrapped = deepspeed._PlainOutput(Giving())
    two = Two(torch.ones(1), None)
    assert wrapped(two) == {"first": two.first, "second": None}
    assert wrapped.output_type is Two
    plain = torch.ones(1)
    assert wrapped(plain) is plain
    assert wrapped.output_type is None, "of the last forward"


@pytest.mark.parametrize(
    ("name", "expected", "adapter"),
    [
        ("base_model.model.lm_head.weight", "lm_head.weight", False),
        ("base_model.model.q.base_layer.weight", "q.weight", False),
        ("base_model.model.q.lora_A.default.weight", "q.lora_A.default.weight", True),
        ("score.modules_to_save.default.weight", "score.weight", False),
        ("score.original_module.weight", "score.original_module.weight", True),
        ("model.norm.weight", "model.norm.weight", False),
    ],
)
def test_weights_have_the_names_of_the_model_below_its_adapters(
    name: str, expected: str, adapter: bool
) -> None:
    assert deepspeed._hf_name(name) == expected
    assert deepspeed._is_adapter(name) is adapter


def test_every_parameter_stands_with_the_module_that_owns_it() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1, bias=False)))
    found = [(name, owner) for name, owner, _ in deepspeed._own_parameters(module)]
    assert [name for name, _ in found] == ["0.weight", "0.bias", "1.0.weight"]
    assert found[-1][1] is module.get_submodule("1.0")
