from __future__ import annotations

import pytest
import torch

from rto.errors import ProofError
from rto.weights.digest import DigestRecorder, fingerprint, first_difference, tensor_digest


def test_digest_depends_on_values_dtype_and_shape():
    base = torch.arange(6, dtype=torch.float32)
    flipped = base.clone()
    flipped[5] = torch.nextafter(flipped[5], torch.tensor(9.0))
    others = [base.view(2, 3), base.view(torch.int32), base.to(torch.bfloat16), flipped]
    assert len({tensor_digest(t) for t in [base, *others]}) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_digest_ignores_memory_layout_and_grad(dtype: torch.dtype):
    rows = torch.tensor([[0, 1, 2], [3, 0, 5]]).to(dtype)
    transposed_storage = rows.t().contiguous().t()
    assert not transposed_storage.is_contiguous()
    assert tensor_digest(transposed_storage) == tensor_digest(rows)
    if dtype.is_floating_point:
        assert tensor_digest(rows.clone().requires_grad_()) == tensor_digest(rows)


def test_scalar_and_empty_tensors_have_digests():
    assert tensor_digest(torch.tensor(1.0)) != tensor_digest(torch.tensor([1.0]))
    assert tensor_digest(torch.empty(0)) != tensor_digest(torch.empty(0, 3))


def test_recorder_passes_pairs_on_and_refuses_a_second_tensor_of_a_name():
    recorder = DigestRecorder()
    pairs = [("a", torch.zeros(2)), ("b", torch.ones(2))]
    assert [name for name, _ in recorder.tee(pairs)] == ["a", "b"]
    assert recorder.digests == {name: tensor_digest(t) for name, t in pairs}
    with pytest.raises(ProofError, match="'a' came twice"):
        list(recorder.tee([("a", torch.zeros(2))]))


def test_a_recorder_at_rest_passes_the_same_pairs_on_and_takes_no_digest():
    recorder = DigestRecorder(active=False)
    pairs = [("a", torch.zeros(2)), ("b", torch.ones(2))]
    assert list(recorder.tee(pairs)) == pairs
    assert recorder.digests == {}


def test_first_difference_names_the_first_in_sorted_order():
    sent = {"c": "3", "a": "1", "b": "2"}
    assert first_difference(sent, dict(sorted(sent.items()))) is None
    assert first_difference(sent, {"a": "1", "b": "x", "c": "y"}) == "'b' differs"
    assert first_difference(sent, {"a": "1", "c": "y"}) == "'b' did not arrive"
    assert first_difference(sent, {**sent, "aa": "0"}) == "'aa' was not sent"


def test_fingerprint_ignores_order_and_sees_names_and_digests():
    one = {"a": "1", "b": "2"}
    assert fingerprint(one) == fingerprint({"b": "2", "a": "1"})
    assert len({fingerprint(d) for d in (one, {"a": "2", "b": "1"}, {"a": "1"})}) == 3
