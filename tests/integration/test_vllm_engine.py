"""A real vLLM engine on CPU: what it samples, what it computes, and how weights get in."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sampled import token_rows, values
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rto.errors import ProofError, UserError
from rto.rollout.requests import Sample, SampleRequest, Sampling
from rto.weights.digest import DigestRecorder, first_difference

VOCAB, EOS, PAD, UNK = 100, 98, 99, 97
PROMPTS = [(3, 14, 15), (9, 26, 5, 35, 8), (97, 9), (31,)]
PROBE = [list(range(5, 25)), [3, 1, 4, 1, 5, 9, 2, 6]]
PAIRS = [(ids[:2], ids[2:]) for ids in PROBE]


def tiny_llama(*, seed: int, tied: bool) -> LlamaForCausalLM:
    """Grouped queries (4 heads over 2), and a vocabulary that vLLM has to pad (100 to 128)."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config).eval()


def save(model: LlamaForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(UNK)} | {"<unk>": UNK, "<eos>": EOS, "<pad>": PAD}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)


@torch.no_grad()
def logprobs_of(
    model: LlamaForCausalLM, ids: list[int], *, temperature: float = 1.0
) -> list[float]:
    """Log-prob of each token but the first, by transformers."""
    logits = model(torch.tensor([ids])).logits[0].float() / temperature
    rows = logits.log_softmax(-1)
    return [float(rows[i, ids[i + 1]]) for i in range(len(ids) - 1)]


def weights_of(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def digests_of(weights: dict[str, Tensor]) -> dict[str, str]:
    recorder = DigestRecorder()
    list(recorder.tee(weights.items()))
    return recorder.digests


@dataclass
class Held:
    """An engine and the transformers model whose weights it was started with."""

    engine: Any
    model: LlamaForCausalLM
    tied: bool

    def push(self, model: LlamaForCausalLM, version: int) -> None:
        self.engine.load_weights(weights_of(model))
        self.engine.receipt()
        self.engine.accept(version)

    def probe_gap(self, model: LlamaForCausalLM) -> float:
        got = self.engine.response_logprobs([(ids[:1], ids[1:]) for ids in PROBE])
        pairs = zip(PROBE, got, strict=True)
        gaps = [
            abs(a - b)
            for ids, row in pairs
            for a, b in zip(logprobs_of(model, ids), row, strict=True)
        ]
        return max(gaps)

    def worker(self) -> Any:
        return self.engine._llm.llm_engine.model_executor.driver_worker.worker


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def held(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Held]:
    from rto.rollout.vllm.engine import VllmEngine

    folder = tmp_path_factory.mktemp("llama")
    model = tiny_llama(seed=0, tied=request.param)
    save(model, folder)
    # The nccl transport is open too: only its transport needs GPUs (see `arrive`).
    engine = VllmEngine(str(folder), dtype="fp32", max_model_len=64, seed=0, weight_transfer="nccl")
    yield Held(engine, model, request.param)
    del engine
    gc.collect()


@pytest.fixture
def engine(held: Held) -> Any:
    """The engine with the weights it started with, proven as version 0."""
    held.push(held.model, 0)
    return held.engine


def requests(seed: int = 0) -> list[SampleRequest]:
    return [SampleRequest(p, seed * 1000 + i) for i, p in enumerate(PROMPTS * 8)]


def check_sampler_logprobs(
    model: LlamaForCausalLM, samples: list[Sample], *, temperature: float
) -> None:
    for request, sample in zip(requests(), samples, strict=True):
        ids = [*request.prompt_token_ids, *sample.token_ids]
        expected = logprobs_of(model, ids, temperature=temperature)[-len(sample.token_ids) :]
        assert sample.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logprobs_are_transformers_logprobs_at_the_sampling_temperature(
    held: Held, engine: Any, temperature: float
):
    samples = engine.generate(requests(), Sampling(12, temperature=temperature), 0)
    check_sampler_logprobs(held.model, samples, temperature=temperature)


def test_nucleus_logprobs_are_renormalised_over_the_nucleus(held: Held, engine: Any):
    samples = engine.generate(requests(), Sampling(1, top_p=0.6), 0)
    for request, sample in zip(requests(), samples, strict=True):
        with torch.no_grad():
            logits = held.model(torch.tensor([request.prompt_token_ids])).logits[0, -1]
        probs, order = logits.softmax(-1).sort(descending=True)
        size = int((probs.cumsum(0) < 0.6).sum()) + 1
        place = order.tolist().index(sample.token_ids[0])
        assert place < size
        assert sample.logprobs[0] == pytest.approx(
            float((probs[place] / probs[:size].sum()).log()), abs=1e-4
        )


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_transformers_samples_what_vllm_does(
    held: Held, engine: Any, tmp_path: Path, penalty: float
):
    """Greedily, where both take the likeliest token; each of them is exact about its log-prob."""
    from rto.rollout.hf import HfEngine

    save(held.model, tmp_path)
    ours = HfEngine(str(tmp_path), dtype="fp32", device=torch.device("cpu"), max_model_len=64)
    ours.accept(0)
    sampling = Sampling(20, temperature=0, repetition_penalty=penalty)
    for theirs, sample in zip(
        engine.generate(requests(), sampling, 0),
        ours.generate(requests(), sampling, 0),
        strict=True,
    ):
        assert token_rows([sample]) == token_rows([theirs])
        assert sample.text == theirs.text
        assert sample.finished == theirs.finished
    gaps = zip(engine.response_logprobs(PAIRS), ours.response_logprobs(PAIRS), strict=True)
    assert all(row == pytest.approx(other, abs=1e-4) for row, other in gaps)


def test_a_sample_ends_in_eos_exactly_when_finished_and_text_leaves_it_out(engine: Any):
    samples = engine.generate(requests(), Sampling(40, temperature=1.5), 0)
    assert {s.finished for s in samples} == {True, False}
    for sample in samples:
        assert len(sample.logprobs) == len(sample.token_ids)
        assert (sample.token_ids[-1] == EOS) == sample.finished
        assert EOS not in sample.token_ids[:-1]
        assert sample.finished or len(sample.token_ids) == 40
        words = [f"w{i}" for i in sample.token_ids if i < UNK]
        assert sample.text.split() == words


def test_a_sample_is_a_function_of_prompt_and_seed_not_of_its_batch(engine: Any):
    sampling = Sampling(12)
    together = engine.generate(requests(), sampling, 0)
    backwards = engine.generate(requests()[::-1], sampling, 0)[::-1]
    alone = [engine.generate([r], sampling, 0)[0] for r in requests()[:4]]
    assert values(together) == values(backwards)
    assert values(together[:4]) == values(alone)
    assert token_rows(engine.generate(requests(seed=1), sampling, 0)) != token_rows(together)


def test_parts_come_one_after_the_other_out_of_one_batch(engine: Any):
    asked, sampling = requests(), Sampling(12)
    cut = [asked[:3], [], asked[3:4], asked[4:]]
    parts = list(engine.generate_parts(cut, sampling, 0))
    assert [len(part) for part in parts] == [3, 0, 1, len(asked) - 4]
    together = engine.generate(asked, sampling, 0)
    assert values([sample for part in parts for sample in part]) == values(together)


def test_the_first_part_is_there_before_the_last_response_is_sampled(engine: Any):
    ends = [len(sample.token_ids) for sample in engine.generate(requests(), Sampling(40), 0)]
    early = ends.index(min(ends))
    asked = requests()
    parts = engine.generate_parts([[asked.pop(early)], asked], Sampling(40), 0)
    next(parts)
    assert engine._llm.llm_engine.has_unfinished_requests()
    parts.close()
    assert not engine._llm.llm_engine.has_unfinished_requests(), "what is given up leaves the batch"
    assert values(engine.generate(requests()[:4], Sampling(12), 0)) == values(
        engine.generate(requests(), Sampling(12), 0)[:4]
    )


def test_reloaded_weights_are_the_ones_computed_with(held: Held, engine: Any):
    new = tiny_llama(seed=1, tied=held.tied)
    assert held.probe_gap(held.model) < 1e-4
    assert held.probe_gap(new) > 0.5
    held.push(new, 1)
    assert held.probe_gap(new) < 1e-4
    samples = engine.generate(requests(), Sampling(12), 1)
    check_sampler_logprobs(new, samples, temperature=1.0)


def test_receipt_equals_the_senders_digests_and_everything_is_assigned(held: Held):
    weights = weights_of(tiny_llama(seed=2, tied=held.tied))
    assert ("lm_head.weight" in weights) != held.tied
    held.engine.load_weights(weights)
    receipt = held.engine.receipt()
    assert first_difference(digests_of(weights), receipt.digests) is None
    assert receipt.unassigned == ()


def test_one_wrong_bit_is_found_by_name(held: Held):
    weights = weights_of(tiny_llama(seed=2, tied=held.tied))
    sent = digests_of(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    planted = weights[name].clone()
    planted.view(torch.int32)[7, 7] ^= 1
    held.engine.load_weights({**weights, name: planted})
    assert first_difference(sent, held.engine.receipt().digests) == f"'{name}' differs"


@pytest.mark.parametrize(
    ("dropped", "parameter"),
    [
        ("model.norm.weight", "model.norm.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.qkv_proj.weight"),
        ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.gate_up_proj.weight"),
    ],
)
def test_a_parameter_without_all_its_values_is_unassigned(held: Held, dropped: str, parameter: str):
    weights = weights_of(tiny_llama(seed=2, tied=held.tied))
    complete = digests_of(weights)
    del weights[dropped]
    held.engine.load_weights(weights)
    receipt = held.engine.receipt()
    assert receipt.unassigned == (parameter,)
    assert first_difference(complete, receipt.digests) == f"'{dropped}' did not arrive"


def test_no_sample_comes_from_unproven_or_other_weights(held: Held, engine: Any):
    with pytest.raises(ProofError, match="version 7, engine has version 0"):
        engine.generate(requests(), Sampling(1), 7)
    engine.load_weights(weights_of(held.model))
    with pytest.raises(ProofError, match="no proven weights"):
        engine.generate(requests(), Sampling(1), 0)
    with pytest.raises(ProofError, match="before its weights are proven"):
        engine.accept(1)
    engine.receipt()
    engine.accept(1)
    assert len(engine.generate(requests(), Sampling(1), 1)) == len(requests())


def arrive(held: Held, chunks: list[dict[str, Tensor]]) -> None:
    """A weight transfer without its transport: real start, load and finish of vLLM's engine."""
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    transfer = held.worker().weight_transfer_engine
    empty = {"names": [], "dtype_names": [], "shapes": []}
    held.engine.start_weight_update()
    for chunk in chunks:
        transfer.receive_weights = lambda _, c=chunk: transfer.model.load_weights(list(c.items()))
        held.engine.update_weights(WeightTransferUpdateRequest(update_info=empty))
    held.engine.finish_weight_update()


def test_weights_that_arrive_in_chunks_by_weight_transfer_are_proven_the_same_way(held: Held):
    new = tiny_llama(seed=3, tied=held.tied)
    named = list(weights_of(new).items())
    # The cut falls between k_proj and v_proj of one packed parameter.
    cut = [name for name, _ in named].index("model.layers.0.self_attn.v_proj.weight")
    arrive(held, [dict(named[:cut]), dict(named[cut:])])
    receipt = held.engine.receipt()
    assert first_difference(digests_of(dict(named)), receipt.digests) is None
    assert receipt.unassigned == ()
    assert held.probe_gap(new) < 1e-4

    arrive(held, [dict(named[:cut]), dict(named[cut + 1 :])])
    assert held.engine.receipt().unassigned == ("model.layers.0.self_attn.qkv_proj.weight",)


def test_sleep_and_wake_change_nothing_on_cpu(engine: Any):
    before = engine.generate(requests(), Sampling(2), 0)
    engine.sleep()
    engine.wake()
    assert values(engine.generate(requests(), Sampling(2), 0)) == values(before)


def test_a_trainer_rank_other_than_the_sender_passes_over_all_weights():
    from rto.rollout.vllm.sender import WeightSender, WeightStream

    weights = weights_of(tiny_llama(seed=0, tied=True))
    stream = WeightStream(
        [(name, t.dtype, tuple(t.shape)) for name, t in weights.items()], weights.items
    )
    sender = WeightSender("nccl", [], rank=1, weights=stream, num_workers=1)
    assert sender.send() == digests_of(weights)
    assert sender.send() == digests_of(weights)


def test_object_store_with_tensor_parallelism_is_refused_with_the_remedy():
    from rto.rollout.vllm.engine import VllmEngine

    with pytest.raises(UserError, match="use nccl"):
        VllmEngine("any", dtype="bf16", max_model_len=8, seed=0, tensor_parallel_size=2)
