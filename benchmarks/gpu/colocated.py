"""An engine and a trainer on one card, built by what builds those of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from benchmarks.common import GIB
from benchmarks.gpu.models import FIRST_ID, model_folder, shape
from benchmarks.gpu.place import Place
from rto.cluster.actors import EngineActor
from rto.cluster.build import Models
from rto.cluster.calls import Engines
from rto.cluster.groups import RemoteCall
from rto.cluster.plan import plan_actors
from rto.cluster.scorer import RewardSources
from rto.cluster.session import session
from rto.methods.sft import SFT
from rto.models.load import load_tokenizer
from rto.runs.online import OnlineRun, Pipeline, build_pipeline
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Cluster, DeepSpeed, Lora
from rto.sections.training import Actor, RolloutSection, Train
from rto.types import Prompt

LORA_RANK = 64
MAX_LEN = 2048
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 64, 64, 256
START_LIMIT = 600.0
Told = TypeVar("Told")


@dataclass(frozen=True)
class Pair:
    """One engine, asleep where it can sleep, and one rank of a policy."""

    place: Place
    run: OnlineRun
    pipeline: Pipeline
    start_seconds: tuple[float, float]
    """Until the engine was there, and from then on."""

    @property
    def engines(self) -> Engines:
        return self.pipeline.generator.engines

    def of_engine(self, question: Callable[[EngineActor], Told]) -> Told:
        """What the engine's process answers: asking there takes no memory of the card."""
        call: RemoteCall[Told] = RemoteCall("__ray_call__", (question,), {})
        return self.engines.group.all(call).get()[0]

    def card_gib(self) -> float:
        """What all processes hold of the card; 0 on a CPU."""
        return self.of_engine(_used) / GIB if self.place.on_gpu else 0.0


@contextmanager
def engine_and_trainer(place: Place, name: str) -> Iterator[Pair]:
    """Both on a model of this shape; adapters on one that is too large to train whole."""
    path = model_folder(place, name)
    place.work.joinpath("logs").mkdir(parents=True, exist_ok=True)
    config = config_of(place, str(path), lora=name == "8b")
    plan = plan_actors(
        config,
        device=place.device,
        num_cpus=float(os.cpu_count() or 1),
        online=True,
        critic=False,
        frozen=False,
    )
    run = OnlineRun(
        config=config,
        method=SFT(),
        plan=plan,
        tokenizer=load_tokenizer(str(path)),
        prompts=prompts(shape(place, name).vocab_size, place.scaled(PROMPTS)),
        models=Models(),
        rewards=RewardSources(),
        iterations=1,
    )
    with session(config, plan, logs=place.work / "logs") as actors:
        waits: list[float] = []
        begun = time.perf_counter()
        pipeline = build_pipeline(run, actors, lambda text: waits.append(time.perf_counter()))
        ready = time.perf_counter()
        # The first wait is for the engine alone, where they share a card; the next for the trainer.
        yield Pair(place, run, pipeline, (waits[1] - begun, ready - waits[1]))


def config_of(place: Place, path: str, *, lora: bool) -> RunConfig:
    new_tokens = place.scaled(NEW_TOKENS)
    return RunConfig(
        actor=Actor(
            model_name_or_path=path, lr_scheduler="constant", gradient_checkpointing_enable=lora
        ),
        rollout=RolloutSection(batch_size=8, max_new_tokens=new_tokens),
        train=Train(batch_size=8, device=place.device),
        data=Data(max_len=128 if place.tiny else MAX_LEN),
        ds=DeepSpeed(
            zero_stage=2, param_dtype=place.dtype, lora=Lora(rank=LORA_RANK if lora else 0)
        ),
        vllm=VLLM(engine="vllm"),
        ray=Cluster(start_timeout=START_LIMIT),
    )


def prompts(vocabulary: int, count: int) -> list[Prompt]:
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(FIRST_ID, vocabulary, (count, PROMPT_TOKENS), generator=rng).tolist()
    return [Prompt(number, tuple(row), "") for number, row in enumerate(ids)]


def cache_tokens(actor: EngineActor) -> int:
    """What the KV cache of the actor's vLLM engine holds."""
    tokens = vars(actor.engine)["_llm"].llm_engine.vllm_config.cache_config.kv_cache_size_tokens
    assert isinstance(tokens, int)
    return tokens


def _used(actor: EngineActor) -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free
