"""The transformers engine on decoder-only models: padded prompts of unlike length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import rollouts_of, token_rows, values
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from rto.errors import ProofError
from rto.models.families import load_policy
from rto.rollout.hf import HfEngine
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.types import collate

PROMPTS = [(10, 11, 12, 13, 5), (20,), (30, 31, 30)]
CPU = torch.device("cpu")


def started(path: Path, **options: Any) -> HfEngine:
    engine = HfEngine(str(path), dtype="fp32", device=CPU, **options)
    engine.accept(0)
    return engine


@pytest.fixture
def engine(tiny_model_dir: Path) -> HfEngine:
    return started(tiny_model_dir, max_model_len=64, max_tokens=80)


def requests() -> list[SampleRequest]:
    return [SampleRequest(ids, seed=1000 * k + sum(ids)) for ids in PROMPTS for k in range(8)]


def logits_after(engine: HfEngine, prompt: tuple[int, ...], sample: Sample) -> torch.Tensor:
    """Of each token of the sample, from one forward without padding [T, V]."""
    ids = torch.tensor([[*prompt, *sample.token_ids]])
    return engine._model(input_ids=ids).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_policy(
    engine: HfEngine, tiny_model_dir: Path, temperature: float
) -> None:
    samples = engine.generate(requests(), Sampling(12, temperature), 0)
    tokens = collate(rollouts_of(PROMPTS, samples), pad_token_id=0)
    policy = load_policy(str(tiny_model_dir), dtype=torch.float32, attn_implementation="sdpa")
    expected = policy(tokens, temperature=temperature).logprobs
    torch.testing.assert_close(tokens.sampler_logprobs, expected, atol=1e-4, rtol=1e-4)
    assert len(set(token_rows(samples))) > 20
    assert {s.finished for s in samples} == {True, False}


def test_a_sample_does_not_depend_on_its_batch(engine: HfEngine) -> None:
    asked, sampling = requests(), Sampling(12, repetition_penalty=1.5)
    together = engine.generate(asked, sampling, 0)
    for row in (0, 9, 23):
        (alone,) = engine.generate([asked[row]], sampling, 0)
        assert token_rows([alone]) == token_rows([together[row]])
        assert alone.logprobs == pytest.approx(together[row].logprobs, abs=1e-4)


def test_parts_are_sampled_in_the_batches_of_the_whole(engine: HfEngine) -> None:
    asked, sampling = requests(), Sampling(12)
    cut = [asked[:5], [], asked[5:9], asked[9:]]
    parts = list(engine.generate_parts(cut, sampling, 0))
    assert [len(part) for part in parts] == [5, 0, 4, len(asked) - 9]
    together = engine.generate(asked, sampling, 0)
    assert values([sample for part in parts for sample in part]) == values(together)


def test_parts_of_a_version_that_is_not_held_are_refused_at_once(engine: HfEngine) -> None:
    with pytest.raises(ProofError, match="engine has version 0"):
        engine.generate_parts([requests()], Sampling(2), 1)


def test_a_repetition_penalty_acts_on_prompt_and_response(engine: HfEngine) -> None:
    sampling = Sampling(12, repetition_penalty=3.0)
    for request, sample in zip(requests(), engine.generate(requests(), sampling, 0), strict=True):
        for step, row in enumerate(logits_after(engine, request.prompt_token_ids, sample)):
            read = {*request.prompt_token_ids, *sample.token_ids[:step]}
            held = torch.tensor([i in read for i in range(len(row))])
            row = torch.where(held, torch.where(row > 0, row / 3, row * 3), row)
            expected = float(row.log_softmax(-1)[sample.token_ids[step]])
            assert sample.logprobs[step] == pytest.approx(expected, abs=1e-4)


def test_a_ban_of_ngrams_reads_the_response_alone(engine: HfEngine) -> None:
    """A prompt that holds every pair leaves the response free to use them, once each."""
    free = engine.generate(requests(), Sampling(30, temperature=0.3), 0)
    held = engine.generate(requests(), Sampling(30, temperature=0.3, no_repeat_ngram_size=2), 0)

    def repeats(samples: list[Sample]) -> int:
        pairs = [list(zip(row, row[1:], strict=False)) for row in token_rows(samples)]
        return sum(len(each) - len(set(each)) for each in pairs)

    assert repeats(free) > 0
    assert repeats(held) == 0
    first = held[0].token_ids[:2].tolist()
    again = SampleRequest((*PROMPTS[0], *first, *PROMPTS[0]), requests()[0].seed)
    (sample,) = engine.generate([again], Sampling(2, temperature=0, no_repeat_ngram_size=2), 0)
    (without,) = engine.generate([again], Sampling(2, temperature=0), 0)
    assert token_rows([sample]) == token_rows([without])


@pytest.mark.parametrize("max_model_len", [9, None])
def test_a_sample_ends_where_its_room_does(
    tmp_path: Path, tiny_model_dir: Path, max_model_len: int | None
) -> None:
    """Each row of a batch has its own room; learned positions end at 16, in a padded row too."""
    config = GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    engine = started(tmp_path, max_model_len=max_model_len)
    samples = engine.generate(requests(), Sampling(40), 0)
    room = max_model_len or 16
    longest = {
        prompt: max(len(s.token_ids) for s in samples[8 * i : 8 * i + 8])
        for i, prompt in enumerate(PROMPTS)
    }
    assert longest == {prompt: room - len(prompt) for prompt in PROMPTS}
    for request, sample in zip(requests(), samples, strict=True):
        expected = logits_after(engine, request.prompt_token_ids, sample).log_softmax(-1)
        chosen = expected[range(len(sample.token_ids)), list(sample.token_ids)]
        assert sample.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
        whole = len(sample.token_ids) == room - len(request.prompt_token_ids)
        assert sample.finished or whole


def test_response_logprobs_and_stop_texts(engine: HfEngine) -> None:
    pairs = [((10, 11, 1), (12, 1, 13)), ((20, 1), (21,))]
    for (prompt, response), got in zip(pairs, engine.response_logprobs(pairs), strict=True):
        ids = torch.tensor([[*prompt, *response]])
        rows = engine._model(input_ids=ids).logits[0].log_softmax(-1)
        expected = rows[range(len(prompt) - 1, ids.shape[1] - 1), list(response)]
        torch.testing.assert_close(torch.tensor(got), expected, atol=1e-4, rtol=1e-4)
    free = engine.generate(requests(), Sampling(12), 0)
    words = free[0].text.split()
    stopped = engine.generate(requests(), Sampling(12, stop=(words[2],)), 0)
    assert stopped[0].finished
    assert stopped[0].text.split() == words[:2]
