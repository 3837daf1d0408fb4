"""Parts of a tensor in two host buffers, against the bytes as they are. The copies are made as late
as they may be, so that a part which is read too early or overwritten too soon shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from rto.weights.digest import tensor_digest
from rto.weights.staging import PinnedStaging, host_parts

GARBAGE = 0xAB


@dataclass
class LateStaging:
    size: int
    started: dict[int, Tensor] = field(default_factory=dict)
    buffers: dict[int, Tensor] = field(default_factory=dict)
    most: int = 0
    """Copies on their way at once."""

    def start(self, slot: int, source: Tensor) -> None:
        assert slot in (0, 1), slot
        assert slot not in self.started, "a buffer is filled before it was read"
        assert len(source) <= self.size
        if slot in self.buffers:
            self.buffers[slot].fill_(GARBAGE)
        self.started[slot] = source
        self.most = max(self.most, len(self.started))

    def finish(self, slot: int) -> Tensor:
        self.buffers[slot] = self.started.pop(slot).clone()
        return self.buffers[slot]


@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_parts_are_the_bytes_end_to_end(size: int) -> None:
    source = torch.arange(8, dtype=torch.uint8)
    staging = LateStaging(size)
    read = [part.clone() for part in host_parts(source, staging)]
    assert torch.equal(torch.cat(read), source)
    assert not staging.started
    assert staging.most == (2 if size < 8 else 1)


TENSORS = {
    "matrix": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)),
    "not contiguous": torch.arange(24.0).view(4, 6).t()[1:],
    "bf16": torch.arange(9).to(torch.bfloat16),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("size", [1, 7, 16, 4096])
def test_a_digest_in_parts_is_that_of_the_whole(name: str, size: int) -> None:
    tensor = TENSORS[name]
    assert tensor_digest(tensor, LateStaging(size)) == tensor_digest(tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_bytes_have_the_digest_of_the_hosts() -> None:
    device = torch.device("cuda")
    big = torch.randn(3001, 1777)
    for tensor in [*TENSORS.values(), big, big.bfloat16(), big.t()]:
        on_device = tensor.to(device)
        assert tensor_digest(on_device) == tensor_digest(tensor)
        assert tensor_digest(on_device, PinnedStaging(device, size=4096)) == tensor_digest(tensor)
    # A value that the caller's stream has not yet computed when the digest is asked for.
    changed = big.to(device)
    for _ in range(50):
        changed = changed * 1.01
    asked = tensor_digest(changed)
    assert asked == tensor_digest(changed.cpu())
