"""Digests of named tensors: the proof that the weights sent are the weights received.

The digests guard against lost, mixed-up and altered bytes, not against forgery: a fast hash fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from rto.errors import ProofError
from rto.weights.staging import Staging, host_parts, pinned

TensorDigests = Mapping[str, str]
"""Tensor name -> digest of its dtype, shape and bytes."""


@dataclass(frozen=True)
class WeightReceipt:
    """What an engine says about its last weight update."""

    digests: TensorDigests
    """Of every tensor that arrived."""
    unassigned: tuple[str, ...]
    """Engine parameters that got no value, or only a part of one."""


class DigestRecorder:
    """Takes the digest of each tensor of a stream that passes through ``tee``.

    One that is not ``active`` lets the stream pass: of ranks that send the same, one is compared.
    """

    def __init__(self, *, active: bool = True) -> None:
        self._active = active
        self.digests: dict[str, str] = {}

    def tee(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same pairs. A name may come once: of two, an engine keeps which it likes.

        Raises:
            ProofError: a name came twice.
        """
        if not self._active:
            yield from named
            return
        for name, tensor in named:
            if name in self.digests:
                raise ProofError(f"weight sync: tensor '{name}' came twice in one update")
            self.digests[name] = tensor_digest(tensor)
            yield name, tensor


def tensor_digest(tensor: Tensor, staging: Staging | None = None) -> str:
    """xxh3-128 of dtype, shape and row-major bytes; the same on every device.

    Host memory is read in place, a GPU's through ``staging``, by default the device's own.
    """
    digest = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if staging is None and flat.is_cuda:
        staging = pinned(flat.device)
    for part in [flat] if staging is None else host_parts(flat, staging):
        digest.update(part.numpy().data)
    return digest.hexdigest()


def first_difference(sent: TensorDigests, received: TensorDigests) -> str | None:
    """The first name, in sorted order, on which the two disagree, and how; None if they agree."""
    for name in sorted(sent.keys() | received.keys()):
        if name not in received:
            return f"'{name}' did not arrive"
        if name not in sent:
            return f"'{name}' was not sent"
        if sent[name] != received[name]:
            return f"'{name}' differs"
    return None


def fingerprint(digests: TensorDigests) -> str:
    """One digest of all tensors, whatever the order in which they came."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return xxhash.xxh3_128_hexdigest(lines.encode())
