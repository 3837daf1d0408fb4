"""What an engine cannot do is refused before one starts."""

from __future__ import annotations

import sys

import pytest

from rto.cluster.check_models import check_engine
from rto.config import RunConfig
from rto.errors import UserError
from rto.sections_runtime import Cluster


def test_a_run_that_samples_needs_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    check_engine(RunConfig(), encoder_decoder=False)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"vLLM, which .*, is not installed: pip install"):
        check_engine(RunConfig(), encoder_decoder=False)
    # transformers samples from these, and a cluster has libraries of its own.
    check_engine(RunConfig(), encoder_decoder=True)
    check_engine(RunConfig(ray=Cluster(address="10.0.0.1:6379")), encoder_decoder=False)
