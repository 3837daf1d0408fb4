"""Every model of a run and its engine, looked at before an actor loads one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import UserError
from rto.runs.check_models import with_engine
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Cluster


def test_what_vllm_alone_does_is_refused_without_it(tiny_model_dir: Path) -> None:
    path = str(tiny_model_dir)
    assert with_engine(RunConfig(), path).vllm.engine == "vllm"
    joined = RunConfig(ray=Cluster(address="10.0.0.1:6379"), vllm=VLLM(engine="vllm"))
    assert with_engine(joined, path).vllm.engine == "vllm"
    for section in (VLLM(sync_backend="nccl"), VLLM(tensor_parallel_size=2)):
        assert with_engine(RunConfig(vllm=section), path).vllm.sync_backend == section.sync_backend
        asked = RunConfig(vllm=VLLM(**{**vars(section), "engine": "transformers"}))
        with pytest.raises(UserError, match="transformers, not vLLM, samples from .*: use "):
            with_engine(asked, path)
