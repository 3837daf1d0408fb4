"""Sequence parallelism (Ulysses): several ranks read the same rows, each a part of their tokens.

All layers of a rank hold 1/k of the packed tokens. Only the attention needs the others: there the
ranks exchange, so that each has every token of 1/k of the heads, and back (Jacobs et al. 2023,
arXiv 2309.14509, section 3.1). A rank's gradient is that of its own tokens, so the ranks' gradients
add up as those of different rows do.

DeepSpeed's ``UlyssesSPAttentionHF`` is not what exchanges: it hands the attention position ids to
find rows by, which SDPA does not read, and rows that share a prompt have no such ids. The exchange
itself is torch's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single

from rto.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rto.models.packing import Packed


@dataclass(frozen=True)
class SequenceRanks:
    """The ranks that share rows, seen from one of them: ``index`` of ``size``."""

    group: dist.ProcessGroup
    index: int
    size: int

    @classmethod
    def of_this_rank(cls, size: int, *, timeout: float) -> Self:
        """Ranks 0 to ``size`` - 1 share rows, the next ``size`` do, and so on. Collective."""
        # A model that ZeRO-3 will take apart on a GPU is tried out where it was loaded: on the CPU.
        backend = "cpu:gloo,cuda:nccl" if dist.get_backend() == "nccl" else None
        limit = timedelta(seconds=timeout)
        group, _ = dist.new_subgroups(group_size=size, timeout=limit, backend=backend)
        assert isinstance(group, dist.ProcessGroup)
        return cls(group, dist.get_rank() % size, size)

    def shard(self, packed: Packed) -> Packed:
        """This rank's part of packed rows [1, N]: ids and positions [1, ceil(N / size)].

        Indices into the tokens stay those of all; the last parts are filled up with tokens that no
        index names and no attention reads.
        """
        assert packed.positions is not None
        assert packed.rows is not None
        total = packed.ids.shape[1]
        shard = Shard(self, math.ceil(total / self.size), total)
        return dataclasses.replace(
            packed,
            ids=shard.part(packed.ids),
            positions=shard.part(packed.positions),
            rows=dataclasses.replace(packed.rows, shard=shard),
        )


@dataclass(frozen=True)
class Shard:
    """The tokens of one rank: ``length`` of ``total``, from ``ranks.index * length`` on."""

    ranks: SequenceRanks
    length: int
    total: int

    @property
    def start(self) -> int:
        return self.ranks.index * self.length

    def part(self, x: Tensor) -> Tensor:
        """[1, N] -> [1, n]; beyond the end, the first token's."""
        missing = self.length * self.ranks.size - self.total
        filled = torch.cat([x, x[:, :1].expand(-1, missing)], dim=1)
        return filled[:, self.start : self.start + self.length]

    def pick(self, hidden: Tensor, index: Tensor) -> Picked:
        """Of the states [n, H] of this rank's tokens, those that ``index`` [M] names."""
        place = index - self.start
        here = (place >= 0) & (place < self.length)
        return Picked(hidden[place[here]], here, self.ranks)

    def to_heads(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        """All heads [1, heads, n, D] of this rank's tokens -> all tokens [1, heads / k, N, D] of
        its heads, and what stands for ``module`` where keys and values had to be repeated.

        Raises:
            UserError: the query's heads do not divide by k.
        """
        size = self.ranks.size
        heads, key_heads = query.shape[1], key.shape[1]
        if heads % size:
            raise UserError(_uneven(size, heads))
        each = heads // key_heads
        # Fewer times would leave a rank with a part of a head, or with a head of none of its own.
        times = next(n for n in range(1, each + 1) if each % n == 0 and key_heads * n % size == 0)
        if times > 1:
            key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
            module = _Heads(each // times, module)
        query, key, value = self._exchanged([query, key, value])
        return module, query, key, value

    def to_tokens(self, output: Tensor) -> Tensor:
        """All tokens [1, N, heads / k, D] of this rank's heads -> all heads of its tokens
        [1, n, heads, D]."""
        size = self.ranks.size
        filled = F.pad(output[0], (0, 0, 0, 0, 0, self.length * size - self.total))
        received = self._exchange(filled.unflatten(0, (size, self.length)))
        return received.transpose(0, 1).flatten(1, 2)[None]

    def _exchanged(self, tensors: list[Tensor]) -> list[Tensor]:
        """[1, H, n, D] each -> [1, H / k, N, D]; one message to each rank."""
        size, length = self.ranks.size, self.length
        parts = [x[0].unflatten(0, (size, -1)) for x in tensors]
        widths = [part[0].numel() for part in parts]
        received = self._exchange(torch.cat([part.flatten(1) for part in parts], dim=1))
        return [
            flat.unflatten(1, part.shape[1:])
            .transpose(0, 1)
            .reshape(part.shape[1], size * length, part.shape[3])[None, :, : self.total]
            for flat, part in zip(received.split(widths, dim=1), parts, strict=True)
        ]

    def _exchange(self, x: Tensor) -> Tensor:
        """Row j [k, ...] goes to rank j, and row j of the result came from it."""
        x = x.contiguous()
        return all_to_all_single(torch.empty_like(x), x, group=self.ranks.group)


def check_config(name: str, config: PreTrainedConfig, size: int) -> None:
    """What a model's config tells of whether ``size`` ranks can share rows.

    Raises:
        UserError: they cannot: it has an encoder, or heads that do not divide.
    """
    if config.is_encoder_decoder:
        raise whole_rows(name, size)
    heads = config.get_text_config().to_dict().get("num_attention_heads", size)
    if heads % size:
        raise UserError(f"{name}: {_uneven(size, heads)}")


def whole_rows(name: str, size: int) -> UserError:
    """What an encoder-decoder model says when it is asked to share rows."""
    return UserError(
        f"{name}: ds.sequence_parallel_size is {size} and this is an encoder-decoder model, whose "
        "rows are read whole: leave ds.sequence_parallel_size at 1"
    )


def _uneven(size: int, heads: int) -> str:
    return (
        f"ds.sequence_parallel_size is {size} and the model has {heads} attention heads, of which "
        "each rank takes as many: use a divisor of them"
    )


class _Heads(nn.Module):
    """An attention module, for an attention function that asks how its heads share keys."""

    def __init__(self, num_key_value_groups: int, of: nn.Module) -> None:
        super().__init__()
        self.num_key_value_groups = num_key_value_groups
        self.is_causal = not hasattr(of, "is_causal") or bool(of.is_causal)
        self.train(of.training)


@dataclass(frozen=True)
class Picked:
    """States [n, H] out of M that were asked for: those on this rank, marked in ``here`` [M].
    Without ``ranks``, all of them."""

    states: Tensor
    here: Tensor | None = None
    ranks: SequenceRanks | None = None

    def mine(self, values: Tensor) -> Tensor:
        """Of something for each state [M, ...], this rank's [n, ...]."""
        return values if self.here is None else values[self.here]

    def whole(self, values: Tensor) -> Tensor:
        """Something that each rank computed of its states [n, ...] -> of all [M, ...], on all.

        The gradient is that of this rank's values alone: every rank has the same loss, so a sum
        over ranks would count it k times.
        """
        if self.here is None or self.ranks is None:
            return values
        own = values.new_zeros(len(self.here), *values.shape[1:])
        own[self.here] = values
        everyone = own.detach().clone()
        dist.all_reduce(everyone, group=self.ranks.group)
        here = self.here.view(-1, *[1] * (values.ndim - 1))
        return torch.where(here, own, everyone)
