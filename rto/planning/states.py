"""Bytes that a model in training has on one ZeRO rank, without activations.

Rajbhandari et al. 2020 (ZeRO, section 5) say what each stage shards; the buffers beside that are
those of DeepSpeed 0.19 under the configuration of ``rto.training.deepspeed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rto.planning.shape import ModelShape
from rto.sections.runtime import DeepSpeed

Parts = Mapping[str, float]
"""What memory is for -> bytes."""

BUCKET = 500_000_000
"""Elements of DeepSpeed's reduce_bucket_size."""
LIVE = 1_000_000_000 + 50_000_000
"""Elements that ZeRO-3 keeps whole at a time: max_live_parameters and prefetch_bucket_size."""
SUB_GROUP = 1_000_000_000
"""Elements that ZeRO-3 updates at a time."""
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in NF4 with double quantisation (Dettmers et al. 2023, section 3)."""


@dataclass(frozen=True)
class TrainedModel:
    """A model on ``ranks`` ZeRO ranks. ``params`` of its parameters have gradients, which are all
    of them or those of adapters; the largest such tensor has ``largest`` elements."""

    shape: ModelShape
    params: int
    largest: int
    ranks: int
    checkpointing: bool = False
    reference: ModelShape | None = None
    """A frozen model that lies beside it on each rank (TDPO)."""

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, whose base is frozen."""
        return self.params < self.shape.params


def width(ds: DeepSpeed) -> int:
    """Bytes of a weight or an activation."""
    return 2 if ds.dtype == "bf16" else 4


def weights(shape: ModelShape, ds: DeepSpeed) -> float:
    """Of a frozen model, or the base of adapters: in 4 bits what is a layer's matrix."""
    quantised = shape.linear if ds.load_in_4bit else 0
    return (shape.params - quantised) * width(ds) + quantised * NF4


def held(model: TrainedModel, ds: DeepSpeed, *, on_cpu: bool) -> Parts:
    """What a rank has from its first optimizer step on, whatever it does."""
    stage, size, count = ds.zero_stage, width(ds), model.params
    share = count / (model.ranks if stage else 1)
    adapters = count * size
    whole = adapters + weights(model.shape, ds) if model.adapted else adapters
    on_device = not ds.adam_offload
    parts = {"parameters": whole / (model.ranks if stage == 3 else 1)}
    if model.reference is not None:
        parts["reference"] = model.reference.params * size
    if on_device and (size == 2 or stage in (1, 2)):
        parts["fp32 weights"] = 4 * share
    if on_device:
        parts["optimizer"] = 8 * share
    if stage == 1 and size == 2 and on_device:
        # Its optimizer of bf16 keeps whole gradients, of both kinds, from step to step.
        parts["gradients"] = (4 + size) * count
    if stage == 3:
        parts["gradients"] = 4 * share * on_device
        parts["buckets"] = bucket(model, on_cpu=on_cpu) * size
    if ds.adam_offload and stage < 3:
        parts["offload buffer"] = model.largest * size
    return {name: value for name, value in parts.items() if value}


def accumulated(model: TrainedModel, ds: DeepSpeed, *, on_cpu: bool) -> Parts:
    """What an update has beside that, from its first backward to the end of its last step."""
    stage, size, count = ds.zero_stage, width(ds), model.params
    share = count / (model.ranks if stage else 1)
    room = bucket(model, on_cpu=on_cpu)
    if stage == 3:
        step = 0 if ds.adam_offload else 4 * min(share, SUB_GROUP)
        return {"whole weights": gathered(model, ds), "gradients": step}
    if stage == 2:
        # One fp32 partition takes all micro-batches. In fp32 that of the last one is beside it when
        # its activations are gone.
        return {"gradients": 4 * share, "buckets": room * size * (1 + ds.overlap_comm)}
    if stage == 1 and size == 2:
        # With offloading, whole gradients in fp32 and the partition that leaves for the host.
        return {"gradients": 4 * (count + share), "buckets": 4 * room} if ds.adam_offload else {}
    if stage == 1:
        # Among ranks each has its averaged part beside the whole ones.
        reduced = model.ranks > 1
        return {"gradients": 4 * count + 4 * share * reduced, "buckets": 4 * room * reduced}
    # Without ZeRO, bf16 gradients become fp32 ones for the step.
    gradients = size * count + (4 * count if size == 2 else 0)
    return {"gradients": gradients, "buckets": room * size * (model.ranks > 1)}


def gathered(model: TrainedModel, ds: DeepSpeed) -> float:
    """Whole weights that ZeRO-3 has of a model as it computes."""
    return min(model.shape.params, LIVE) * width(ds) if ds.zero_stage == 3 else 0.0


def bucket(model: TrainedModel, *, on_cpu: bool) -> int:
    """Elements of the buffer that gradients are reduced in. On a CPU memory that was never written
    takes no room."""
    return min(BUCKET, model.params) if on_cpu else BUCKET


def on_host(model: TrainedModel, ds: DeepSpeed) -> float:
    """Host memory of one rank whose optimizer is offloaded; most of it is page-locked.

    fp32 weights, two means, fp32 gradients and a copy of the weights on their way back; ZeRO-1 and
    2 keep the sum of the micro-batches there too, and a buffer of the largest gradient.
    """
    if not ds.adam_offload:
        return 0.0
    share, size = int(model.params / model.ranks), width(ds)
    total = 2.0 * page_locked(4 * share) + 8 * share + page_locked(size * share)
    if ds.zero_stage == 3:
        return total
    return total + page_locked(size * share) + page_locked(size * model.largest)


def page_locked(size: int) -> int:
    """Bytes that torch takes for a page-locked tensor: the next power of two."""
    return 1 << (size - 1).bit_length() if size > 0 else 0
