"""Rollout on the vLLM engines: one request per sample, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rto.batching.shards import shard_rows
from rto.cluster.calls import Engines
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.rollout.seeds import request_seed
from rto.types import Prompt, Rollout


@dataclass(frozen=True)
class EngineGenerator:
    """Implements ``Generator`` over the engine actors.

    A sample's seed depends on its prompt and the iteration alone. On a CPU so does the sample;
    on a GPU the log-probs that it is drawn from depend, in their last bits, on the batch as well.
    """

    engines: Engines
    sampling: Sampling
    samples_per_prompt: int
    run_seed: int
    sleep_after: bool = False
    """Free the engines' GPU memory once a rollout is done; the next weight sync wakes them."""

    def generate(
        self, prompts: Sequence[Prompt], policy_version: int, iteration: int
    ) -> list[Rollout]:
        drawn = [(p, k) for p in prompts for k in range(self.samples_per_prompt)]
        requests = [
            SampleRequest(p.token_ids, request_seed(self.run_seed, iteration, p.id, k))
            for p, k in drawn
        ]
        shards = shard_rows([len(r.prompt_token_ids) for r in requests], len(self.engines))
        answered = self.engines.generate(
            [[requests[i] for i in shard] for shard in shards], self.sampling, policy_version
        )
        samples: dict[int, Sample] = {}
        for shard, answers in zip(shards, answered, strict=True):
            samples.update(zip(shard, answers, strict=True))
        if self.sleep_after:
            self.engines.sleep()
        return [
            Rollout(
                prompt=prompt,
                sample_index=k,
                token_ids=samples[i].token_ids,
                sampler_logprobs=samples[i].logprobs,
                text=samples[i].text,
                finished=samples[i].finished,
                policy_version=policy_version,
                seed=requests[i].seed,
            )
            for i, (prompt, k) in enumerate(drawn)
        ]
