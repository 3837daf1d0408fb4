"""The transformers engine: exact sampling, one seed per request, and weights that are proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import rollouts_of, token_rows, values
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rto.errors import ProofError
from rto.models.families import load_policy
from rto.rollout.hf import HfEngine
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.runs.evaluate import stored_weights
from rto.types import collate
from rto.weights.digest import first_difference, tensor_digest

PROMPTS = [(10, 11, 12, 13, 1), (20, 1), (30, 31, 1)]
CPU = torch.device("cpu")


@pytest.fixture
def engine(tiny_t5_dir: Path) -> HfEngine:
    engine = HfEngine(str(tiny_t5_dir), dtype="fp32", device=CPU, max_tokens=80)
    engine.accept(0)
    return engine


def requests(prompts: list[tuple[int, ...]]) -> list[SampleRequest]:
    return [SampleRequest(ids, seed=1000 * k + sum(ids)) for ids in prompts for k in range(8)]


def sampled(engine: HfEngine, temperature: float = 1.0, top_p: float = 1.0) -> list[Sample]:
    return engine.generate(requests(PROMPTS), Sampling(12, temperature, top_p), 0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_policy(
    engine: HfEngine, tiny_t5_dir: Path, temperature: float
) -> None:
    samples = sampled(engine, temperature)
    tokens = collate(rollouts_of(PROMPTS, samples), pad_token_id=0)
    policy = load_policy(str(tiny_t5_dir), dtype=torch.float32, attn_implementation="sdpa")
    expected = policy(tokens, temperature=temperature).logprobs
    torch.testing.assert_close(tokens.sampler_logprobs, expected, atol=1e-4, rtol=1e-4)
    assert len(set(token_rows(samples))) > 12
    assert {s.finished for s in samples} == {True, False}
    for sample, ids in zip(samples, token_rows(samples), strict=True):
        assert (1 in ids) == sample.finished
        assert ids.index(1) == len(ids) - 1 if sample.finished else True
        assert sample.finished or len(ids) == 12


def test_every_stop_token_ends_a_sample(engine: HfEngine) -> None:
    """The same draws as without it, each up to the first of the two."""
    free = sampled(engine)
    stop = max(
        (token for row in token_rows(free) for token in row[:-1]),
        key=lambda token: sum(token in sample.token_ids for sample in free),
    )
    sampling = Sampling(12, stop_token_ids=(stop,))
    for sample, whole in zip(engine.generate(requests(PROMPTS), sampling, 0), free, strict=True):
        ends = [i for i, token in enumerate(whole.token_ids) if token in (1, stop)]
        length = ends[0] + 1 if ends else 12
        assert sample.token_ids.tolist() == whole.token_ids[:length].tolist()
        assert sample.finished == bool(ends)


def test_a_sample_does_not_depend_on_its_batch(engine: HfEngine) -> None:
    together, asked = sampled(engine), requests(PROMPTS)
    for row in (0, 9, 23):
        (alone,) = engine.generate([asked[row]], Sampling(12), 0)
        assert token_rows([alone]) == token_rows([together[row]])
        assert alone.logprobs == pytest.approx(together[row].logprobs, abs=1e-4)
    reversed_ = engine.generate(asked[::-1], Sampling(12), 0)[::-1]
    assert token_rows(reversed_) == token_rows(together)


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(engine: HfEngine) -> None:
    samples = sampled(engine, temperature=0)
    assert len(set(token_rows(samples[:8]))) == 1
    model = engine._model
    ids = torch.tensor([[0, *samples[0].token_ids]])
    logits = model(input_ids=torch.tensor([PROMPTS[0]]), decoder_input_ids=ids[:, :-1]).logits
    assert logits[0].argmax(-1).tolist() == list(samples[0].token_ids)


def test_no_ngram_of_a_response_occurs_twice(engine: HfEngine) -> None:
    def repeats(sampling: Sampling) -> bool:
        rows = token_rows(engine.generate(requests(PROMPTS), sampling, 0))
        pairs = [list(zip(row, row[1:], strict=False)) for row in rows]
        return any(len(set(each)) < len(each) for each in pairs)

    assert repeats(Sampling(30, temperature=0.4))
    assert not repeats(Sampling(30, temperature=0.4, no_repeat_ngram_size=2))


def test_a_repetition_penalty_acts_on_what_the_response_holds(engine: HfEngine) -> None:
    (sample,) = engine.generate(
        [SampleRequest(PROMPTS[0], 3)], Sampling(12, repetition_penalty=3.0), 0
    )
    model = engine._model
    ids = torch.tensor([[0, *sample.token_ids]])
    logits = model(input_ids=torch.tensor([PROMPTS[0]]), decoder_input_ids=ids[:, :-1]).logits[0]
    for step, token in enumerate(sample.token_ids):
        # The start token, 0, is no part of the response.
        held = torch.tensor([i in sample.token_ids[:step] for i in range(logits.shape[-1])])
        row = logits[step]
        row = torch.where(held, torch.where(row > 0, row / 3, row * 3), row)
        assert sample.logprobs[step] == pytest.approx(float(row.log_softmax(-1)[token]), abs=1e-4)
    assert len(sample.token_ids) > 3


def test_a_stop_text_ends_its_row_alone(engine: HfEngine) -> None:
    free = sampled(engine)
    words = [s.text.split() for s in free]
    # The second and third word of the first sample, as one text across two tokens.
    stop = " ".join(words[0][1:3])
    stopped = engine.generate(requests(PROMPTS), Sampling(12, stop=(stop, "none of them")), 0)
    assert stopped[0].text == f"{words[0][0]} "
    assert stopped[0].finished
    assert stopped[0].token_ids.tolist() == free[0].token_ids[:3].tolist()
    for before, after in zip(free, stopped, strict=True):
        if stop not in before.text:
            assert values([after]) == values([before])
    assert sum(stop not in before.text for before in free) > 12


def test_a_decoder_with_learned_positions_ends_where_they_do(
    tmp_path: Path, tiny_t5_dir: Path
) -> None:
    shape: Any = {
        "vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "forced_eos_token_id": None,
    }  # fmt: skip
    BartForConditionalGeneration(BartConfig(**shape)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_t5_dir).save_pretrained(tmp_path)
    engine = HfEngine(str(tmp_path), dtype="fp32", device=CPU)
    engine.accept(0)
    samples = engine.generate(requests(PROMPTS), Sampling(40), 0)
    assert max(len(s.token_ids) for s in samples) == 16


def test_weights_are_proven_before_they_sample(engine: HfEngine) -> None:
    model = engine._model
    weights = {name: 1.5 * p.detach().clone() for name, p in model.named_parameters()}
    before = sampled(engine)
    engine.load_weights(weights)
    with pytest.raises(ProofError, match="engine has no proven weights"):
        sampled(engine)
    with pytest.raises(ProofError, match="before its weights are proven"):
        engine.accept(1)
    receipt = engine.receipt()
    sent = {name: tensor_digest(x) for name, x in weights.items()}
    assert first_difference(sent, receipt.digests) is None
    assert receipt.unassigned == ()
    engine.accept(1)
    with pytest.raises(ProofError, match="asked for policy version 0, engine has version 1"):
        sampled(engine)
    after = engine.generate(requests(PROMPTS), Sampling(12), 1)
    assert token_rows(after) != token_rows(before)


def test_what_an_update_leaves_out_or_has_too_much_is_named(engine: HfEngine) -> None:
    model = engine._model
    weights = {name: p.detach() for name, p in model.named_parameters()}
    left_out = {name: x for name, x in weights.items() if name != "lm_head.weight"}
    engine.load_weights(left_out)
    assert engine.receipt().unassigned == ("lm_head.weight",)
    with pytest.raises(ProofError, match=r"'lm_head.bias' \(3,\): engine has no such tensor"):
        engine.load_weights({**weights, "lm_head.bias": torch.zeros(3)})
    with pytest.raises(ProofError, match="engine has shape"):
        engine.load_weights({**weights, "lm_head.weight": torch.zeros(1, 32)})


def test_response_logprobs_are_those_of_the_full_forward(engine: HfEngine) -> None:
    pairs = [((10, 11, 1), (12, 1, 13)), ((20, 1), (21,))]
    model = engine._model
    for (prompt, response), got in zip(pairs, engine.response_logprobs(pairs), strict=True):
        logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).logits
        expected = logits[0].log_softmax(-1)[range(len(response)), list(response)]
        torch.testing.assert_close(torch.tensor(got), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_weights_of_a_directory_are_taken_whole(tmp_path: Path, scaled: bool) -> None:
    """With a head of its own (Flan-T5) and with one tied to the embedding (T5)."""
    shape: Any = {
        "vocab_size": 12, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
        "tie_word_embeddings": scaled, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")),
        pad_token="a",
        eos_token="b",
    )
    for name in ("one", "two"):
        T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    engine = HfEngine(str(tmp_path / "one"), dtype="fp32", device=CPU)
    weights = stored_weights(str(tmp_path / "two"), torch.float32, engine="transformers")
    engine.load_weights(weights)
    receipt = engine.receipt()
    sent = {name: tensor_digest(x) for name, x in weights.items()}
    assert first_difference(sent, receipt.digests) is None
    assert receipt.unassigned == ()
    held = engine._model.state_dict()
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path / "two").state_dict()
    assert all(torch.equal(held[name], x) for name, x in loaded.items())
