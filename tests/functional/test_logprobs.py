from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from naive_logprobs import selected_logprobs_naive
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from rto.functional import logprobs
from rto.functional.logprobs import chunked_logprobs

N, H, V = 37, 8, 53


def make(dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(H, V, bias=False).to(dtype)
    return torch.randn(N, H).to(dtype).requires_grad_(), head, torch.randint(V, (N,))


def naive(hidden: Tensor, head: nn.Linear, ids: Tensor, temperature: float) -> tuple[Tensor, ...]:
    logits = head(hidden).float() / temperature
    probs = logits.softmax(-1)
    return selected_logprobs_naive(logits, ids), -(probs * probs.log()).sum(-1)


@pytest.mark.parametrize("chunk_size", [1, 10, N, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_definition(chunk_size: int, temperature: float):
    grads = []
    results = []
    for chunked in (True, False):
        hidden, head, ids = make()
        if chunked:
            logprobs, entropy, _ = chunked_logprobs(
                hidden,
                head,
                ids,
                temperature=temperature,
                chunk_size=chunk_size,
                with_entropy=True,
            )
            assert entropy is not None
        else:
            logprobs, entropy = naive(hidden, head, ids, temperature)
        (logprobs * torch.arange(N) + entropy.square()).sum().backward()
        results.append((logprobs, entropy))
        grads.append((hidden.grad, head.weight.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_own_backward_pass_equals_autograd_of_the_definition_in_fp64(
    with_entropy: bool, sign: float
):
    """With weights of both signs, as advantages have them, and with all of one sign."""
    rng = torch.Generator().manual_seed(3)
    weights = torch.randn(N, generator=rng).double()
    assert (weights < 0).any()
    assert (weights > 0).any()
    for weight in (sign * weights, sign * weights.abs()):
        hidden, head, ids = make()
        logprobs, entropy, _ = chunked_logprobs(hidden, head, ids, with_entropy=with_entropy)
        total = (weight * logprobs).sum()
        if entropy is not None:
            total = total - (2 * weight * entropy).sum()
        total.backward()
        exact = hidden.detach().double().requires_grad_()
        matrix = head.weight.detach().double().requires_grad_()
        all_logprobs = (exact @ matrix.T).log_softmax(-1)
        picked = torch.stack([all_logprobs[i, token] for i, token in enumerate(ids.tolist())])
        expected = (weight * picked).sum()
        if with_entropy:
            expected = expected + (2 * weight * (all_logprobs.exp() * all_logprobs).sum(-1)).sum()
        expected.backward()
        for got, wanted in ((hidden.grad, exact.grad), (head.weight.grad, matrix.grad)):
            assert got is not None
            assert wanted is not None
            torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_one_log_prob_by_hand():
    """Logits 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8. The slope of log p_1 is 1 - 2/8 in its own
    logit and minus the probability in the others; times the weight of -4: 1/2, -3, 5/2."""
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]], requires_grad=True)
    logprobs = chunked_logprobs(logits, nn.Identity(), torch.tensor([1])).logprobs
    assert logprobs.item() == pytest.approx(math.log(2 / 8))
    (-4 * logprobs).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.5, -3.0, 2.5])


@pytest.mark.parametrize("result", [0, 1], ids=["log-probs", "entropy"])
def test_one_of_the_two_results_may_be_all_that_is_used(result: int):
    grads = []
    for chunked in (True, False):
        hidden, head, ids = make()
        if chunked:
            results = chunked_logprobs(hidden, head, ids, with_entropy=True)
        else:
            results = naive(hidden, head, ids, 1.0)
        used = results[result]
        assert used is not None
        (used * torch.arange(N)).sum().backward()
        grads.append((hidden.grad, head.weight.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_a_second_backward_pass_is_refused():
    """The first one writes over what the forward pass kept."""
    hidden, head, ids = make()
    total = chunked_logprobs(hidden, head, ids).logprobs.sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_entropy_comes_only_when_asked_for_and_log_probs_do_not_depend_on_it():
    hidden, head, ids = make()
    without, nothing, _ = chunked_logprobs(hidden, head, ids)
    with_it, *_ = chunked_logprobs(hidden, head, ids, with_entropy=True)
    assert nothing is None
    assert torch.equal(without, with_it)


@pytest.mark.parametrize("chunk_size", [1, 10, N, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reference_kl_equals_the_definition_and_spares_the_reference(
    chunk_size: int, temperature: float
):
    rng = torch.Generator().manual_seed(1)
    ref_hidden, ref_head = torch.randn(N, H + 2, generator=rng), nn.Linear(H + 2, V)
    ref_hidden.requires_grad_()
    results = []
    for chunked in (True, False):
        hidden, head, ids = make()
        if chunked:
            kl = chunked_logprobs(
                hidden,
                head,
                ids,
                temperature=temperature,
                chunk_size=chunk_size,
                reference=(ref_hidden, ref_head),
            ).reference_kl
            assert kl is not None
        else:
            p, q = (
                (logits / temperature).softmax(-1)
                for logits in (head(hidden), ref_head(ref_hidden).detach())
            )
            kl = torch.stack([(b * (b / a).log()).sum() for a, b in zip(p, q, strict=True)])
        (kl * torch.arange(N)).sum().backward()
        results.append((kl.detach(), hidden.grad, head.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert (results[0][0] > 0).all()
    assert ref_hidden.grad is None
    assert ref_head.weight.grad is None


def test_log_probs_do_not_depend_on_the_reference_and_its_kl_with_itself_is_0():
    hidden, head, ids = make()
    with_it = chunked_logprobs(hidden, head, ids, chunk_size=10, reference=(hidden, head))
    assert torch.equal(with_it.logprobs, chunked_logprobs(hidden, head, ids).logprobs)
    assert with_it.reference_kl is not None
    torch.testing.assert_close(with_it.reference_kl, torch.zeros(N))


def test_bf16_hidden_states_give_fp32_log_probs():
    hidden, head, ids = make(torch.bfloat16)
    logprobs, *_ = chunked_logprobs(hidden, head, ids, chunk_size=10)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, selected_logprobs_naive(head(hidden), ids))


@pytest.mark.parametrize(("like", "rows", "calls"), [
    ("cpu", 1024, 1), ("cpu", 4096, 4), ("cuda", 4096, 1), ("cuda", 4097, 2),
])  # fmt: skip
def test_a_gpu_reads_more_positions_at_a_time(
    like: str, rows: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size goes by the tensors' device; here that is one without memory."""
    monkeypatch.setitem(logprobs.HEAD_CHUNK, "meta", logprobs.HEAD_CHUNK[like])
    head, asked = nn.Linear(H, V, device="meta"), list[int]()
    head.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    ids = torch.zeros(rows, dtype=torch.long, device="meta")
    chunked_logprobs(torch.zeros(rows, H, device="meta"), head, ids)
    assert len(asked) == calls


def test_no_positions_give_no_log_probs():
    hidden, head, ids = make()
    assert chunked_logprobs(hidden[:0], head, ids[:0])[0].shape == (0,)


def test_shapes_are_checked():
    hidden, head, ids = make()
    with pytest.raises(ValueError, match=r"expected \[N, H\] and \[N\]"):
        chunked_logprobs(hidden[None], head, ids)


def test_the_backward_pass_computes_all_chunks_again_but_the_last():
    hidden, head, ids = make()
    calls: list[int] = []
    head.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    logprobs, *_ = chunked_logprobs(hidden, head, ids, num_chunks=3)
    logprobs.sum().backward()
    assert calls == [13, 12, 12, 12, 13], "37 rows in three chunks; then the second, the first"


class LiveBytes(TorchDispatchMode):
    """Peak bytes of the storages that operations made while the mode was on."""

    def __init__(self) -> None:
        super().__init__()
        self.live = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))
        return out


def peak_bytes(fn: Callable[..., Tensor], *, grad: bool) -> int:
    with torch.device("meta"):
        hidden = torch.randn(4096, 64).requires_grad_()
        head = nn.Linear(64, 49_152, bias=False)
        ids = torch.zeros(4096, dtype=torch.long)
    with torch.set_grad_enabled(grad), LiveBytes() as mode:
        logprobs = fn(hidden, head, ids)
        if grad:
            logprobs.sum().backward()
    return mode.peak


@pytest.mark.parametrize("grad", [False, True])
def test_peak_memory_is_a_third_of_the_definitions(grad: bool):
    chunked = peak_bytes(lambda *args: chunked_logprobs(*args)[0], grad=grad)
    whole = peak_bytes(lambda h, head, ids: selected_logprobs_naive(head(h), ids), grad=grad)
    assert whole >= 2 * 4096 * 49_152 * 4, "logits and their log_softmax, in fp32"
    assert chunked <= 0.35 * whole


@pytest.mark.parametrize("grad", [False, True])
def test_peak_memory_with_a_reference_is_a_third_of_the_definitions(grad: bool):
    with torch.device("meta"):
        other, other_head = torch.randn(4096, 64), nn.Linear(64, 49_152, bias=False)

    def chunked(hidden: Tensor, head: nn.Linear, ids: Tensor) -> Tensor:
        kl = chunked_logprobs(hidden, head, ids, reference=(other, other_head)).reference_kl
        assert kl is not None
        return kl

    def whole(hidden: Tensor, head: nn.Linear, ids: Tensor) -> Tensor:
        q = other_head(other).detach().log_softmax(-1)
        return (q.exp() * (q - head(hidden).log_softmax(-1))).sum(-1)

    assert peak_bytes(chunked, grad=grad) <= 0.35 * peak_bytes(whole, grad=grad)
