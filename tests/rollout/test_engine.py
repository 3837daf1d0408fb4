"""Which library samples: what is installed, what serves the model, what was asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rto.errors import UserError
from rto.rollout import engine as engines
from rto.rollout.engine import alone, build_engine, settled
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Train


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


CONFIG = RunConfig(
    ds=DeepSpeed(param_dtype="fp32", attn_implementation="eager"),
    train=Train(seed=7),
    vllm=VLLM(
        engine="vllm",
        tensor_parallel_size=2,
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        cpu_kvcache_gib=3,
    ),
)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the engines were built from; vLLM is not needed."""
    calls: list[dict[str, Any]] = []

    def recording(name: str) -> Callable[..., object]:
        return lambda path, **settings: calls.append({"by": name, "path": path, **settings})

    module = SimpleNamespace(VllmEngine=recording("vllm"))
    monkeypatch.setitem(sys.modules, "rto.rollout.vllm.engine", module)
    monkeypatch.setattr(engines, "HfEngine", recording("hf"))
    return calls


def test_an_engine_of_a_run_is_built_from_its_section(built: list[dict[str, Any]]) -> None:
    build_engine("m", CONFIG, max_len=96, device="cpu", max_tokens=50, transport="nccl", index=1)
    assert built == [
        {
            "by": "vllm",
            "path": "m",
            "dtype": "fp32",
            "max_model_len": 96,
            "seed": 7,
            "tensor_parallel_size": 2,
            "gpu_memory_utilization": 0.5,
            "enforce_eager": True,
            "enable_prefix_caching": True,
            "enable_sleep": True,
            "cpu_kvcache_gib": 3,
            "weight_transfer": "nccl",
            "engine_index": 1,
        }
    ]


@pytest.mark.parametrize(("beside", "share"), [("nothing", 0.9), ("scorers", 0.5), ("ranks", 0.4)])
def test_an_engine_takes_what_its_neighbours_leave_where_nothing_is_set(
    beside: Any, share: float, built: list[dict[str, Any]]
) -> None:
    unset = replace(CONFIG, vllm=replace(CONFIG.vllm, gpu_memory_utilization=None))
    for config in (unset, CONFIG):
        build_engine("m", config, max_len=96, device="cpu", beside=beside)
    assert [each["gpu_memory_utilization"] for each in built] == [share, 0.5]


def test_an_engine_alone_caches_no_prompt_and_sleeps_for_nobody(
    built: list[dict[str, Any]],
) -> None:
    build_engine("m", alone(CONFIG, "vllm"), max_len=96, device="auto")
    (settings,) = built
    assert (settings["tensor_parallel_size"], settings["weight_transfer"]) == (1, "object_store")
    assert not settings["enable_prefix_caching"]
    assert not settings["enable_sleep"]
    assert (settings["gpu_memory_utilization"], settings["cpu_kvcache_gib"]) == (0.5, 3)


def test_transformers_are_told_of_the_device_and_the_room(built: list[dict[str, Any]]) -> None:
    config = alone(CONFIG, "transformers")
    build_engine("m", config, max_len=96, device="cpu")
    build_engine("m", config, max_len=96, device="cpu", max_tokens=50)
    first, second = built
    assert first == {
        "by": "hf",
        "path": "m",
        "dtype": "fp32",
        "device": torch.device("cpu"),
        "max_model_len": 96,
        "attn_implementation": "eager",
        "max_tokens": 16384,
    }
    assert second == {**first, "max_tokens": 50}
