"""Bytes that a forward or a backward pass of so many tokens takes beside weights and gradients.

The layers are those of Llama as transformers writes them, whose norms compute in fp32, with an
attention that keeps its inputs and outputs alone (Dao 2023); other decoders differ by a few of the
terms. Nothing here is measured on a GPU.
"""

from __future__ import annotations

from rto.planning.shape import ModelShape
from rto.planning.states import Parts, TrainedModel, width
from rto.sections.runtime import DeepSpeed

HEAD_CHUNK = {"cpu": 1024, "cuda": 4096}
"""Tokens whose logits exist at a time: ``rto.functional.logprobs``."""


def layer_kept(shape: ModelShape, size: int, *, lora: int = 0, dropout: bool = False) -> float:
    """What autograd keeps of one token in one layer.

    Two norms (bf16: the fp32 input, the normalised state, the product with the weight; fp32: the
    input is the residual state itself), queries, keys, values and outputs of the attention with
    the log-sum of each head, the state before the output projection, and four vectors of the MLP:
    gate, its activation, up, their product. An encoder's states are attended to in addition.
    """
    norms = (2 * (4 + 2 * size) if size == 2 else 6 * size) * shape.hidden
    attention = (3 * shape.q_width + 2 * shape.kv_width) * size + 4 * shape.heads
    if shape.layers and shape.encoder_layers:
        attention *= 2
    mlp = 4 * shape.intermediate * size
    adapters = 7 * lora * size
    if dropout:
        adapters += (6 * shape.hidden + shape.intermediate) * (size + 1)
    return norms + attention + mlp + adapters


def layer_passing(shape: ModelShape, size: int) -> float:
    """Most bytes of one token that a layer has at a time in a forward that keeps nothing."""
    mlp = 3 * shape.intermediate + 3 * shape.hidden
    attention = 4 * shape.q_width + 4 * shape.kv_width + 3 * shape.hidden
    return max(mlp, attention) * size


def logits(shape: ModelShape, ds: DeepSpeed, tokens: int, *, chunk: int, entropy: bool) -> float:
    """Of one chunk: the logits, their fp32 copy where they are bf16, and the log-softmax; its
    exponential and their product where the entropy is asked for."""
    size = width(ds)
    each = size + 4 + (4 if size == 2 else 0) + (4 if entropy else 0)
    return each * min(chunk, tokens) * shape.vocab if shape.head else 0.0


def backward(
    model: TrainedModel, ds: DeepSpeed, tokens: int, *, device: str, entropy: bool = False
) -> Parts:
    """The peak of one micro-batch: all that the layers keep, and the larger of two moments.

    One is the head's: a chunk's logits beside the head's gradient, which is there twice as chunks
    add up. The other is a layer's, whose activations are there again after checkpointing, with
    the gradients of two vectors of its MLP.
    """
    shape, size, chunk = model.shape, width(ds), HEAD_CHUNK[device]
    depth = max(shape.layers, shape.encoder_layers)
    kept = layer_kept(shape, size, lora=ds.lora.rank, dropout=ds.lora.dropout > 0)
    moment = 2 * shape.intermediate * size * tokens
    if model.checkpointing:
        between = depth * shape.hidden * size * tokens
        moment += kept * tokens
    else:
        between = depth * kept * tokens
    if ds.load_in_4bit:
        moment += shape.hidden * shape.intermediate * size
    head = _head(model, ds, tokens, chunk=chunk, entropy=entropy)
    parts = {"activations": between + moment} if moment > head else {"activations": between}
    return parts if moment > head else {**parts, "logits": head}


def _head(model: TrainedModel, ds: DeepSpeed, tokens: int, *, chunk: int, entropy: bool) -> float:
    shape, size = model.shape, width(ds)
    if not shape.head:
        return 0.0
    one = min(chunk, tokens)
    gradient = 0 if model.adapted else shape.vocab * shape.hidden * size
    again = logits(shape, ds, tokens, chunk=chunk, entropy=entropy)
    again += gradient if tokens > chunk else 0
    if model.reference is not None:
        # KL over the vocabulary: five fp32 vectors, of both models, beside the logits.
        again += 12 * one * shape.vocab
    back = (4 + (size if size == 2 else 0)) * one * shape.vocab + 2 * gradient
    return max(again, back)


def forward(shape: ModelShape, ds: DeepSpeed, tokens: int, *, device: str) -> Parts:
    """The peak of a scoring forward, which keeps nothing: a layer's or the head's."""
    layer = layer_passing(shape, width(ds)) * tokens
    states = shape.hidden * width(ds) * tokens
    head = logits(shape, ds, tokens, chunk=HEAD_CHUNK[device], entropy=False)
    if head + states > layer:
        return {"activations": states, "logits": head}
    return {"activations": layer}
