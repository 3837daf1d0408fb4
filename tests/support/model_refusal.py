"""What is said of a model folder that a run cannot use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import tiny_tokenizer

from rto.errors import UserError
from rto.models.skeleton import Needs, Use, check_model


def refusal(folder: Path, use: Use = "policy", **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_model(str(folder), use, Needs(tiny_tokenizer(), {"data.max_len": 64}, **more))
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert folder.name in said
    return said
