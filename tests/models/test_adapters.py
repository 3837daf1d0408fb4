"""Which names of modules take adapters, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rto.errors import UserError
from rto.models.load import load_tokenizer
from rto.models.skeleton import Needs, check_model
from rto.sections.runtime import Lora


def needs(folder: Path, **more: Any) -> Needs:
    return replace(Needs(load_tokenizer(str(folder)), {"data.max_len": 64}), **more)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("nosuch", "nosuch"),
        ("q_proj,nosuch", "called 'nosuch'; use all-linear, or some of"),
        ("norm", "norm"),
        (r".*\.nosuch$", "nosuch"),
        ("[", "does not fit"),
    ],
)
def test_adapters_that_fit_nothing(targets: str, said: str, tiny_model_dir: Path) -> None:
    lora = Lora(rank=2, target_modules=targets)
    with pytest.raises(UserError) as caught:
        check_model(str(tiny_model_dir), "policy", needs(tiny_model_dir, lora=lora))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("targets", ["all-linear", "q_proj, v_proj", r".*\.(q|v)_proj"])
def test_adapters_that_fit(targets: str, tiny_model_dir: Path) -> None:
    lora = Lora(rank=2, target_modules=targets)
    check_model(str(tiny_model_dir), "policy", needs(tiny_model_dir, lora=lora))
