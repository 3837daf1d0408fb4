"""An engine that starts first and sleeps, and a trainer that starts beside it: what each of them
leaves to the other."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.gpu.colocated import Pair, cache_tokens, engine_and_trainer
from benchmarks.gpu.place import Place, Row, script
from rto.rollout.requests import SampleRequest


def measure(place: Place, case: str) -> Iterator[Row]:
    with engine_and_trainer(place, case.removesuffix("-lora")) as pair:
        engine_s, trainer_s = pair.start_seconds
        tokens = {"cache tokens": float(pair.of_engine(cache_tokens))}
        yield Row(f"{case}: started", {"engine s": engine_s, "trainer s": trainer_s, **tokens})
        yield Row(f"{case}: engine asleep", {"card GiB": pair.card_gib()})
        version = pair.pipeline.sync.push()
        yield Row(f"{case}: engine awake", {"card GiB": pair.card_gib()})
        for attempt in ("first", "second"):
            rate = sampled_rate(pair, version)
            yield Row(f"{case}: {attempt} samples", {"card GiB": pair.card_gib(), "tokens/s": rate})
        begun = time.perf_counter()
        pair.engines.sleep()
        seconds = time.perf_counter() - begun
        yield Row(
            f"{case}: asleep again", {"card GiB": pair.card_gib(), "falls asleep in s": seconds}
        )


def sampled_rate(pair: Pair, version: int) -> float:
    """New tokens per second of one call with a response to each prompt."""
    requests = [SampleRequest(p.token_ids, p.id) for p in pair.run.prompts]
    begun = time.perf_counter()
    sampling = pair.pipeline.generator.sampling
    ((samples,),) = pair.engines.generate([[requests]], sampling, version)
    return sum(len(each.token_ids) for each in samples) / (time.perf_counter() - begun)


if __name__ == "__main__":
    script(measure)
