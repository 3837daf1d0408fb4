"""Rollout on the vLLM engines: one request per sample, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        self, parts: Sequence[Sequence[Prompt]], policy_version: int, iteration: int
    ) -> Iterator[list[Rollout]]:
        drawn = [
            (number, prompt, k)
            for number, part in enumerate(parts)
            for prompt in part
            for k in range(self.samples_per_prompt)
        ]
        requests = [
            SampleRequest(p.token_ids, request_seed(self.run_seed, iteration, p.id, k))
            for _, p, k in drawn
        ]
        rows = self._by_engine(requests, [number for number, _, _ in drawn], len(parts))
        asked = [[[requests[i] for i in part] for part in shard] for shard in rows]
        answers = self.engines.generate(asked, self.sampling, policy_version)
        for number, answered in enumerate(answers):
            samples: dict[int, Sample] = {}
            for shard, each in zip(rows, answered, strict=True):
                samples.update(zip(shard[number], each, strict=True))
            if number + 1 == len(parts):
                self._rest()
            yield [
                _rollout(drawn[i][1], drawn[i][2], sample, requests[i].seed, policy_version)
                for i, sample in sorted(samples.items())
            ]
        if not parts:
            self._rest()

    def _by_engine(
        self, requests: Sequence[SampleRequest], part_of: Sequence[int], parts: int
    ) -> list[list[list[int]]]:
        """Of each engine the numbers of its requests, part by part."""
        shards = shard_rows([len(r.prompt_token_ids) for r in requests], len(self.engines))
        return [
            [[i for i in shard if part_of[i] == number] for number in range(parts)]
            for shard in shards
        ]

    def _rest(self) -> None:
        if self.sleep_after:
            self.engines.sleep()


def _rollout(
    prompt: Prompt, sample_index: int, sample: Sample, seed: int, policy_version: int
) -> Rollout:
    return Rollout(
        prompt=prompt,
        sample_index=sample_index,
        token_ids=sample.token_ids,
        sampler_logprobs=sample.logprobs,
        text=sample.text,
        finished=sample.finished,
        policy_version=policy_version,
        seed=seed,
    )
