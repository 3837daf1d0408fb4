"""The memory that `rto plan` computes for an update against what a rank takes.

    python -m benchmarks.plan_memory

Each case is a process of its own: a Llama with random weights in fp32, trained by the rank that
`rto train` starts. What counts is the peak resident size of an update behind a first small one,
above that of the same process with a model of a few thousand parameters.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import ROOT

VOCABULARY, LENGTH, PROMPT, MICRO_BATCHES = 32_000, 256, 16, 2
MIB = 1024**2


@dataclass(frozen=True)
class Case:
    hidden: int
    layers: int
    zero_stage: int = 2
    checkpointing: bool = True
    rows: int = 4


CASES = (
    Case(256, 6),
    Case(512, 10),
    Case(768, 16),
    Case(512, 10, zero_stage=0),
    Case(512, 10, zero_stage=1),
    Case(512, 10, zero_stage=3),
    Case(512, 10, checkpointing=False),
)


def main(argv: list[str]) -> int:
    if argv:
        print(json.dumps(measured(Case(**json.loads(argv[0])))))
        return 0
    for case in CASES:
        found = in_process(case)
        ratio = found["planned"] / found["measured"]
        print(
            f"{found['params'] / 1e6:6.1f} M parameters, ZeRO {case.zero_stage}, checkpointing "
            f"{'on ' if case.checkpointing else 'off'}: planned {found['planned'] / MIB:7.0f} MiB, "
            f"measured {found['measured'] / MIB:7.0f} MiB, ratio {ratio:.2f}",
            flush=True,
        )
    return 0


def in_process(case: Case) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.plan_memory"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    out = subprocess.check_output(
        [*command, json.dumps(asdict(case))], cwd=ROOT, env=environment, text=True
    )
    return json.loads(out.splitlines()[-1])


def measured(case: Case) -> dict[str, float]:
    """Bytes: the plan of the update, and the growth of this process."""
    with tempfile.TemporaryDirectory() as folder:
        small = Case(16, 1, case.zero_stage, case.checkpointing, rows=1)
        _train(_rank(_write(small, Path(folder) / "small"), small), rows=1)
        path = _write(case, Path(folder) / "model")
        before = _status("VmRSS")
        rank = _rank(path, case)
        _train(rank, rows=1)
        _forget_peak()
        _train(rank, rows=case.rows)
        params, planned = _planned(path, rank, case)
        return {"params": params, "planned": planned, "measured": _status("VmHWM") - before}


def _planned(path: Path, rank, case: Case) -> tuple[int, float]:  # type: ignore[no-untyped-def]
    from rto.planning.activations import backward
    from rto.planning.shape import model_shape, trained_params
    from rto.planning.states import TrainedModel, accumulated, held

    ds = rank.config.ds
    model = TrainedModel(
        model_shape(str(path), "policy"),
        *trained_params(str(path), "policy", ds.lora),
        ranks=1,
        checkpointing=case.checkpointing,
    )
    parts = (
        held(model, ds, on_cpu=True),
        accumulated(model, ds, on_cpu=True),
        backward(model, ds, case.rows * LENGTH, device="cpu"),
    )
    return model.params, sum(value for each in parts for value in each.values())


def _rank(path: Path, case: Case):  # type: ignore[no-untyped-def]
    from rto.sections.run_config import RunConfig
    from rto.sections.runtime import DeepSpeed
    from rto.sections.training import Actor, Train
    from rto.training.ranks import Rank, RankPlace

    config = RunConfig(
        actor=Actor(model_name_or_path=str(path), gradient_checkpointing_enable=case.checkpointing),
        train=Train(max_tokens_per_gpu=case.rows * LENGTH, device="cpu"),
        ds=DeepSpeed(zero_stage=case.zero_stage, param_dtype="fp32"),  # type: ignore[arg-type]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = RankPlace(0, 1, probe.getsockname(), "cpu")
    return Rank("policy", str(path), config, place, total_steps=100)


def _train(rank, *, rows: int) -> None:  # type: ignore[no-untyped-def]
    """One optimizer step of two micro-batches."""
    import torch

    from rto.batching.optimizer_steps import loss_norms, plan_update, rank_share
    from rto.methods.sft import SFT
    from rto.types import TokenBatch, TrainBatch

    count, response = rows * MICRO_BATCHES, LENGTH - PROMPT
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (count, LENGTH), generator=generator)
    batch = TokenBatch(
        prompt_ids=ids[:, :PROMPT],
        prompt_mask=torch.ones(count, PROMPT, dtype=torch.bool),
        response_ids=ids[:, PROMPT:],
        response_mask=torch.ones(count, response, dtype=torch.bool),
        sampler_logprobs=torch.zeros(count, response),
        finished=torch.ones(count, dtype=torch.bool),
        group=torch.arange(count),
    )
    steps = plan_update(
        batch.lengths.tolist(), batch.group.tolist(), num_ranks=1, batch_size=count,
        max_tokens=rows * LENGTH, max_sequences=None, seed=0, epoch=0, packs=rank.packs,
    )  # fmt: skip
    chosen, local = rank_share(steps, 0)
    rank.update(SFT(), TrainBatch(batch.take(chosen)), local, loss_norms(batch, steps))


def _write(case: Case, folder: Path) -> Path:
    """A model of the case's size with the smallest tokenizer that there is."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=case.hidden,
        intermediate_size=4 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=max(1, case.hidden // 64),
        num_key_value_heads=max(1, case.hidden // 256),
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


def _status(name: str) -> int:
    """Bytes of a line of Linux's account of this process."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return 1024 * int(found[1])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
