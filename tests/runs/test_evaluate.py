"""Several policies on one engine: weights handed over with their proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_group import BigramEngine, bigram, bigram_logprobs, engines
from local_run import LocalActors, LocalSession
from sampled import token_rows, values
from token_rows import token_batch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rto.cluster.scorer import RewardSources
from rto.errors import ProofError
from rto.runs import evaluate
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, DeepSpeed
from rto.sections.training import Frozen, Reward, RolloutSection, Train
from rto.types import Prompt, Role, ScoredBatch


class Mangling(BigramEngine):
    """Receives other bytes than were sent."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        super().load_weights({"table": weights["table"] + 1.0})


def test_stored_weights_are_handed_over_with_their_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rto.cluster.calls.ray.put", lambda weights: weights)
    engine, weights = BigramEngine(bigram()), {"table": bigram(1)}
    evaluate._hand_over(engines(engine), weights)
    assert engine.notes == [("load_weights",), ("receipt",), ("accept", evaluate.VERSION)]
    assert torch.equal(engine.table, bigram(1))
    broken = Mangling(bigram())
    with pytest.raises(ProofError, match="engine 1 received other weights"):
        evaluate._hand_over(engines(BigramEngine(bigram()), broken), weights)
    assert not any(name == "accept" for name, *_ in broken.notes)


def test_the_kl_of_a_response_is_the_sum_of_its_own_tokens() -> None:
    """-1 + 2 and -1 + 3 for the first, -1 + 2 for the second, whose rest is padding."""
    tokens = replace(
        token_batch([[1], [1]], [[3, 2], [2]]),
        sampler_logprobs=torch.tensor([[-1.0, -1.0], [-1.0, 50.0]]),
    )
    reference = torch.tensor([[-2.0, -3.0], [-2.0, 7.0]])
    found = evaluate.Evaluated([], ScoredBatch(tokens, {Role.REFERENCE: reference}))
    assert found.kl.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_stored_weights_are_those_of_the_model_in_the_engines_precision(
    engine: str, tiny_model_dir: Path
) -> None:
    found = evaluate.stored_weights(str(tiny_model_dir), torch.bfloat16, engine=engine)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    weights = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(found[name], weight.detach().bfloat16())


@dataclass
class Transports:
    """The session of an evaluation: an engine of a table, and frozen models that score by one."""

    local: LocalSession

    @property
    def actors(self) -> LocalActors:
        return self.local.opened[-1]


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> Transports:
    """Policies are tables by name."""
    local = LocalSession({"frozen": {Role.REFERENCE: bigram(3)}})
    monkeypatch.setattr(evaluate, "session", local)
    monkeypatch.setattr(evaluate, "with_engine", lambda config, path: config)
    monkeypatch.setattr("rto.cluster.calls.ray.put", lambda weights: weights)
    monkeypatch.setattr(
        evaluate,
        "stored_weights",
        lambda path, dtype, *, engine: {"table": bigram(int(path))},
    )
    return Transports(local)


def evaluated(policies: dict[str, str], **config: Any) -> dict[str, evaluate.Evaluated]:
    common: dict[str, Any] = {
        "ref": Frozen("r"),
        "reward": Reward(model_name_or_path=["rm"]),
        "ds": DeepSpeed(param_dtype="fp32"),
        "rollout": RolloutSection(max_new_tokens=5),
        "train": Train(device="cpu", seed=4),
    }
    return evaluate.evaluate_policies(
        policies,
        [Prompt(i, (0, i), "") for i in range(3)],
        config=RunConfig(**{**common, **config}),
        rewards=RewardSources(
            normalise=[(0.0, 1.0)], weights=[1.0], model_names=["rm"], ends={5: ""}
        ),
        samples_per_prompt=2,
        pad_token_id=0,
        logs=Path(),
        stops=(5,),
    )


def test_every_policy_answers_the_same_prompts_with_the_same_seeds(transports: Transports) -> None:
    found = evaluated({"a": "1", "again": "1", "b": "2"})
    seeds = [[r.seed for r in each.rollouts] for each in found.values()]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(seeds[0]) == 6
    assert values(found["a"].rollouts) == values(found["again"].rollouts)
    assert token_rows(found["a"].rollouts) != token_rows(found["b"].rollouts)
    assert len(transports.local.opened) == 1, "one engine takes their weights in turn"
    (needs,) = transports.local.needs
    assert (needs.models, needs.folder) == ({"engine": ["1"], "scorer": ["r", "rm"]}, None)


def test_answers_are_scored_by_the_reference_and_the_reward_models(transports: Transports) -> None:
    (found,) = evaluated({"a": "1"}).values()
    tokens = found.scored.tokens
    assert torch.equal(found.scored[Role.REFERENCE], bigram_logprobs(bigram(3), tokens))
    sums = tokens.response_ids.masked_fill(~tokens.response_mask, 0).sum(-1).float()
    assert torch.equal(found.scored[Role.REWARD], sums)
    assert transports.actors.models is not None
    assert list(transports.actors.models.rewards) == ["rm"]
    assert transports.actors.transport == "object_store"


@pytest.mark.parametrize(("asked", "scored", "expected"), [
    (None, True, 0.5), (None, False, 0.9), (0.7, True, 0.7),
])  # fmt: skip
def test_the_engine_leaves_room_for_the_models_that_score(
    asked: float | None, scored: bool, expected: float, transports: Transports, tmp_path: Path
) -> None:
    frozen = {"ref": Frozen("r"), "reward": Reward(model_name_or_path=["rm"])} if scored else {}
    config = RunConfig(
        ds=DeepSpeed(param_dtype="fp32"),
        train=Train(device="cpu"),
        vllm=VLLM(gpu_memory_utilization=asked),
        **frozen,
    )
    with evaluate.evaluator("1", config=config, logs=tmp_path):
        actors = transports.actors
    assert actors.config.vllm.memory_share(actors.placement.plan.beside_engine) == expected


@pytest.mark.parametrize(
    ("device", "order"),
    [("cpu", ["engine", "scorer", "ready"]), ("cuda", ["engine", "ready", "scorer", "ready"])],
)
def test_an_engine_on_the_scorers_gpu_is_ready_before_they_start(
    device: str, order: list[str], transports: Transports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "run_device", lambda config: device)
    evaluated({"a": "1"})
    assert transports.actors.order == order
