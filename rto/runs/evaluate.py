"""Several policies on the same prompts: one engine that takes their weights in turn, one scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rto.cluster.build import Models
from rto.cluster.calls import Engines
from rto.cluster.device import run_device
from rto.cluster.generator import EngineGenerator
from rto.cluster.node_checks import NodeNeeds
from rto.cluster.plan import GroupSpec, Plan
from rto.cluster.scorer import ClusterScorer, RewardSources
from rto.cluster.session import session
from rto.cluster.weight_sync import check_receipt
from rto.models.device import dtype_of, with_dtype
from rto.models.load import load_language_model
from rto.models.policy import unwrapped
from rto.rollout.requests import Sampling
from rto.runs.check_models import with_engine
from rto.sections.run_config import RunConfig
from rto.tracking.phases import tell
from rto.types import Prompt, Role, Rollout, ScoredBatch, collate
from rto.weights.digest import DigestRecorder

VERSION = 0
"""Of every policy: the seed of a request derives from it, and all policies get the same seeds."""


@dataclass(frozen=True)
class Evaluated:
    """What one policy answered, with the reference's log-probs and the model reward."""

    rollouts: Sequence[Rollout]
    scored: ScoredBatch

    @property
    def kl(self) -> Tensor:
        """Sampled log(pi / pi_ref) of each response [B], in nats."""
        tokens = self.scored.tokens
        gap = tokens.sampler_logprobs - self.scored[Role.REFERENCE]
        return gap.masked_fill(~tokens.response_mask, 0).sum(-1)


@dataclass(frozen=True)
class PolicyEvaluator:
    """An engine that takes the weights of one policy after another, and a scorer beside it."""

    engines: Engines
    generator: EngineGenerator
    scorer: ClusterScorer
    roles: frozenset[Role]
    config: RunConfig
    """With dtype and engine settled."""

    def load(self, path: str) -> None:
        """Sample from the weights in this directory from here on.

        Raises:
            ProofError: they did not arrive as they were sent.
        """
        dtype = dtype_of(self.config.ds.dtype)
        _hand_over(self.engines, stored_weights(path, dtype, engine=self.config.vllm.engine))

    def answer(
        self, prompts: Sequence[Prompt], *, pad_token_id: int, stops: tuple[int, ...] = ()
    ) -> Evaluated:
        """The policy's responses, in the order of the prompts, and their scores; ``stops`` end a
        response beside EoS."""
        sampling = replace(self.generator.sampling, stop_token_ids=stops)
        generator = replace(self.generator, sampling=sampling)
        (rollouts,) = generator.generate([prompts], VERSION, VERSION)
        tokens = collate(rollouts, pad_token_id=pad_token_id)
        return Evaluated(rollouts, self.scorer.score(tokens, rollouts, self.roles))


@contextmanager
def evaluator(
    first: str,
    *,
    config: RunConfig,
    rewards: RewardSources | None = None,
    samples_per_prompt: int = 1,
    sampling: Sampling | None = None,
    logs: Path,
) -> Iterator[PolicyEvaluator]:
    """An evaluator for policies of the architecture of ``first``, while the context lasts.

    ``config`` names the reference and the reward models; what it has none of is not scored.
    ``sampling`` is the rollout's where it is not given.
    """
    reference = {} if config.reference_path is None else {Role.REFERENCE: config.reference_path}
    models = Models(reference, config.reward.model_name_or_path)
    roles = frozenset(reference) | frozenset([] if rewards is None else [Role.REWARD])
    config = with_engine(with_dtype(config, run_device(config)), first)
    rollout = config.rollout
    plan = _plan(config, scored=bool(models))
    needs = NodeNeeds({"engine": [first], "scorer": [*models.paths.values(), *models.rewards]})
    with session(config, plan, logs=logs, needs=needs) as actors:
        tell("loading the models")
        engines = actors.start_engines(first, "object_store")
        if plan.device == "cuda":
            # vLLM measures the GPU while it starts: what loads beside it would be counted as its.
            actors.wait()
        frozen = actors.start_scorers(models) if models else None
        actors.wait()
        generator = EngineGenerator(
            engines=engines,
            sampling=sampling
            or Sampling(config.max_new_tokens, rollout.temperature, rollout.top_p),
            samples_per_prompt=samples_per_prompt,
            run_seed=config.train.seed,
        )
        scorer = ClusterScorer(frozen=frozen, rewards=rewards or RewardSources())
        yield PolicyEvaluator(engines, generator, scorer, roles, config)


def evaluate_policies(
    policies: Mapping[str, str],
    prompts: Sequence[Prompt],
    *,
    config: RunConfig,
    rewards: RewardSources,
    samples_per_prompt: int,
    pad_token_id: int,
    logs: Path,
    stops: tuple[int, ...] = (),
) -> dict[str, Evaluated]:
    """Sample and score each policy (name -> directory); they share ``config``'s architecture.

    ``config`` names the reference and the reward models. Every policy sees the same prompts and
    seeds, and ``stops`` end a response beside EoS.
    """
    results: dict[str, Evaluated] = {}
    first = next(iter(policies.values()))
    with evaluator(
        first, config=config, rewards=rewards, samples_per_prompt=samples_per_prompt, logs=logs
    ) as held:
        for name, path in policies.items():
            held.load(path)
            results[name] = held.answer(prompts, pad_token_id=pad_token_id, stops=stops)
    return results


def _hand_over(engines: Engines, weights: Mapping[str, Tensor]) -> None:
    """Give the engines these weights, with the proof that they arrived."""
    recorder = DigestRecorder()
    for _ in recorder.tee(weights.items()):
        pass
    engines.load_given_weights(weights)
    for engine, receipt in enumerate(engines.receipts()):
        check_receipt(recorder.digests, receipt, engine=engine)
    engines.accept(VERSION)


def stored_weights(path: str, dtype: torch.dtype, *, engine: str) -> dict[str, Tensor]:
    """The tensors of a directory by the names that its engine knows them by: vLLM those of the
    files, transformers those of the model, which may tie or rename what is in the files."""
    if engine == "transformers":
        model = unwrapped(load_language_model(path, dtype=dtype, attn_implementation="sdpa"))
        return {name: p.detach() for name, p in model.named_parameters()}
    return {
        name: tensor.to(dtype)
        for file in sorted(Path(path).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _plan(config: RunConfig, *, scored: bool) -> Plan:
    """One engine and one scorer, on the cores of a CPU machine or beside each other on a GPU."""
    on_cpu = run_device(config) == "cpu"
    gpus = 0.0 if on_cpu else 0.5
    bundle = {"CPU": 0.5} if on_cpu else {"CPU": 2.0, "GPU": 1.0}
    spec = GroupSpec(1, bundle["CPU"] / 2, gpus, "shared")
    return Plan(
        groups={"engine": spec, "scorer": spec},
        bundles={"shared": [bundle]},
        device="cpu" if on_cpu else "cuda",
        colocated=False,
        beside_engine="scorers" if scored else "nothing",
    )
