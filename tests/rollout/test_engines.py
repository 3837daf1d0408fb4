"""Which library samples: what is installed, what serves the model, what was asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rto.cluster.check_models import with_engine
from rto.config import RunConfig
from rto.errors import UserError
from rto.rollout import engines
from rto.rollout.engines import settled
from rto.sections_runtime import VLLM, Cluster


def test_vllm_samples_where_it_is_installed_and_serves_the_model() -> None:
    assert settled(VLLM(), "m", encoder_decoder=False).engine == "vllm"
    assert settled(VLLM(), "m", encoder_decoder=True).engine == "transformers"
    asked = VLLM(engine="transformers", num_engines=3)
    assert settled(asked, "m", encoder_decoder=False) == asked
    with pytest.raises(UserError, match="m is an encoder-decoder model, which vLLM does not serve"):
        settled(VLLM(engine="vllm"), "m", encoder_decoder=True)


def test_without_vllm_transformers_samples_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # find_spec sees a None in sys.modules as no module.
    monkeypatch.setitem(sys.modules, "vllm", None)
    engines._tell_missed.cache_clear()
    settled(VLLM(), "m", encoder_decoder=True)
    settled(VLLM(engine="transformers"), "m", encoder_decoder=False)
    assert capsys.readouterr().out == ""
    for _ in range(2):
        assert settled(VLLM(), "m", encoder_decoder=False).engine == "transformers"
    assert capsys.readouterr().out.count("vLLM is not installed, so transformers samples") == 1
    with pytest.raises(UserError, match="vllm.engine vllm needs vLLM, which is not installed: pip"):
        settled(VLLM(engine="vllm"), "m", encoder_decoder=False)
    for engine in ("auto", "vllm"):
        # A cluster that a run joins has libraries of its own.
        there = settled(VLLM(engine=engine), "m", encoder_decoder=False, remote=True)
        assert there.engine == "vllm"


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
