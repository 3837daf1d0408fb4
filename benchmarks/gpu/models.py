"""Models of known shapes with random weights, and random rows for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.common import ENVIRONMENT, ROOT
from benchmarks.gpu.place import Place
from rto.quickstart.tokenizer import build_tokenizer
from rto.types import TokenBatch, pad

FIRST_ID = 6
"""Behind the tokenizer's special tokens."""


@dataclass(frozen=True)
class Shape:
    """A Llama, by the names of its config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def layer_weights(self) -> int:
        """Of the matrices of one layer."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        return self.hidden_size * (self.head_dim * heads + 3 * self.intermediate_size)

    @property
    def parameters(self) -> int:
        """All of them, norms too."""
        embeddings = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return embeddings + self.num_hidden_layers * self.layer_weights + norms

    def forward_flop(self, lengths: Sequence[int], responses: int) -> float:
        """Floating-point operations of one forward: two for each weight and token, of the head for
        response tokens alone; and in each layer two products of n x n / 2 attended pairs."""
        tokens, layers = sum(lengths), self.num_hidden_layers
        body = 2.0 * layers * self.layer_weights * tokens
        pairs = sum(length * length / 2 for length in lengths)
        attention = 4.0 * layers * self.num_attention_heads * self.head_dim * pairs
        return body + attention + 2.0 * self.hidden_size * self.vocab_size * responses


SHAPES = {
    "1b": Shape(128_256, 2048, 8192, 16, 32, 8),
    "8b": Shape(128_256, 4096, 14_336, 32, 32, 8, tie_word_embeddings=False),
    "wide": Shape(256_000, 2304, 9216, 2, 18, 6),
}
"""Llama-3.2-1B, Llama-3-8B, and the embedding of Gemma-2-2B on two layers."""
TINY = Shape(512, 128, 256, 2, 4, 2)


def shape(place: Place, name: str) -> Shape:
    return TINY if place.tiny else SHAPES[name]


def model_folder(place: Place, name: str) -> Path:
    """A model of this shape with a tokenizer, in bf16, made on first use: on a GPU by a process
    that leaves nothing there."""
    folder = place.work / "models" / ("tiny" if place.tiny else name)
    chosen = shape(place, name)
    if _is_there(folder, asdict(chosen)):
        return folder
    if place.on_gpu:
        given = json.dumps({"folder": str(folder), "device": "cuda", "shape": asdict(chosen)})
        command = [sys.executable, "-m", "benchmarks.gpu.models", given]
        subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    else:
        make(folder, "cpu", chosen)
    return folder


def _is_there(folder: Path, chosen: Mapping[str, int]) -> bool:
    config = folder / "config.json"
    if not config.is_file():
        return False
    found = json.loads(config.read_text(encoding="utf-8"))
    return all(found[name] == value for name, value in chosen.items())


def make(folder: Path, device: str, chosen: Shape) -> None:
    """
    Raises:
        OSError: the disk has no room for the model.
    """
    draft = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    draft.mkdir(parents=True)
    free, needed = shutil.disk_usage(draft).free, 2 * chosen.parameters
    if free < needed:
        raise OSError(
            f"{draft.parent}: {free / 1e9:.0f} GB free, the model needs {needed / 1e9:.0f}"
        )
    config = LlamaConfig(
        **asdict(chosen),
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(draft)
    build_tokenizer(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def random_rows(lengths: Sequence[int], *, vocabulary: int, per_prompt: int = 1) -> TokenBatch:
    """Rows of these lengths, prompt and response, a third of it the prompt; ``per_prompt``
    neighbours of one length share theirs."""
    rng = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(FIRST_ID, vocabulary, (count,), generator=rng).tolist()

    prompts: list[list[int]] = []
    for row, length in enumerate(lengths):
        prompts.append(prompts[-1] if row % per_prompt else ids(max(1, length // 3)))
    answers = [ids(length - len(prompt)) for length, prompt in zip(lengths, prompts, strict=True)]
    prompt_ids, prompt_mask = pad(prompts, 0, left=True)
    response_ids, response_mask = pad(answers, 0, left=False)
    return TokenBatch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=response_ids,
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(response_ids.shape),
        finished=torch.ones(len(lengths), dtype=torch.bool),
        group=torch.arange(len(lengths)) // per_prompt,
    )


def chat_lengths(total: int, *, longest: int) -> list[int]:
    """Lengths that add up to ``total``, few of them long: log-normal, the median a quarter of the
    longest."""
    rng = torch.Generator().manual_seed(2)
    lengths: list[int] = []
    left = total
    while left > 0:
        drawn = longest / 4 * float(torch.randn((), generator=rng).mul(0.7).exp())
        length = min(max(4, round(drawn)), longest, left)
        # What would be left must make a row, too.
        lengths.append(left if left - length < 4 else length)
        left -= lengths[-1]
    return lengths


def main() -> None:
    given = json.loads(sys.argv[1])
    make(Path(given["folder"]), given["device"], Shape(**given["shape"]))


if __name__ == "__main__":
    main()
