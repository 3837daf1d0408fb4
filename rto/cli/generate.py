"""`rto generate`: sample responses from a run or a model, on an engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rto.cli.parse import parse_run
from rto.config import RunConfig
from rto.errors import UserError
from rto.sections import require
from rto.tracking.quiet import escape_control, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from rto.rollout.hf import HfEngine
    from rto.rollout.requests import Sample
    from rto.rollout.vllm import VllmEngine


@dataclass(frozen=True)
class Questions:
    """The prompts as the model reads them; ``max_len`` bounds prompt plus response, in tokens."""

    model: str
    texts: Sequence[str]
    token_ids: Sequence[tuple[int, ...]]
    chat_template: bool
    encoder_decoder: bool
    max_len: int


def main(argv: Sequence[str]) -> int:
    """Print a response, or several, to each ``--prompt``."""
    parsed = parse_run("generate", argv)
    options = parsed.config.generate
    if options.model is None:
        raise UserError("no model: give --model RUN_OR_HF_DIR")
    require(bool(options.prompt), 'no prompt: give --prompt "..." once or several times')
    model = model_path(options.model)
    from rich.console import Console

    console = Console(highlight=False)
    quiet(None)
    questions = prepare(model, parsed.config)
    template = "applied" if questions.chat_template else "none"
    console.print(f"{model}: chat template {template}", style="dim", markup=False)
    if not parsed.dry_run:
        show(console, options.prompt, answer(questions, parsed.config), options.num_samples)
    return 0


def model_path(path: str) -> str:
    """A run folder's newest export; any other directory, and a hub id, as it is.

    Raises:
        UserError: the run has no export, or there is no such folder.
    """
    folder = Path(path)
    if (folder / "last" / "config.json").is_file():
        return str(folder / "last")
    if (folder / "config.yaml").is_file() and not (folder / "config.json").is_file():
        raise UserError(f"{path}: this run has no `last` export yet: wait for a checkpoint")
    if not folder.is_dir() and (path.count("/") != 1 or path.startswith(("/", ".", "~", "runs/"))):
        raise UserError(f"{path}: no such folder: give a run folder, a model directory or a hub id")
    return path


def prepare(model: str, config: RunConfig) -> Questions:
    """The prompts of ``config``, rendered and tokenised for ``model``.

    Raises:
        UserError: a prompt is empty or fills the model's context.
    """
    from rto.data.templates import Template, Where
    from rto.models.load import load_config, load_tokenizer

    found = load_config(model).to_dict()
    tokenizer = load_tokenizer(model)
    template = Template(
        tokenizer,
        config.data.input_template,
        bool(tokenizer.chat_template),
        encoder_decoder=bool(found.get("is_encoder_decoder")),
    )
    options = config.generate
    texts = [
        template.prompt(prompt, Where("--prompt", number, "prompt"))
        for number, prompt in enumerate(options.prompt)
    ]
    token_ids = [template.prompt_ids(text) for text in texts]
    longest = max(map(len, token_ids))
    context = found.get("max_position_embeddings") or longest + options.max_new_tokens
    require(
        longest < context,
        f"--prompt: {longest} tokens fill the context of {model}, which is {context}",
    )
    return Questions(
        model=model,
        texts=texts,
        token_ids=token_ids,
        chat_template=template.apply_chat_template,
        encoder_decoder=template.encoder_decoder,
        max_len=min(context, longest + options.max_new_tokens),
    )


def answer(questions: Questions, config: RunConfig) -> list[Sample]:
    """``generate.num_samples`` responses to each prompt, those of one prompt side by side."""
    from rto.models.device import with_dtype
    from rto.rollout.requests import SampleRequest, Sampling
    from rto.rollout.seeds import request_seed

    config = with_dtype(config)
    options = config.generate
    engine = (
        _hf_engine(questions, config)
        if questions.encoder_decoder
        else _vllm_engine(questions, config)
    )
    engine.accept(0)
    requests = [
        SampleRequest(ids, request_seed(config.train.seed, 0, number, sample))
        for number, ids in enumerate(questions.token_ids)
        for sample in range(options.num_samples)
    ]
    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p)
    return engine.generate(requests, sampling, 0)


def _vllm_engine(questions: Questions, config: RunConfig) -> VllmEngine:
    from rto.rollout.vllm import VllmEngine

    vllm = config.vllm
    return VllmEngine(
        questions.model,
        dtype=config.ds.dtype,
        max_model_len=questions.max_len,
        seed=config.train.seed,
        tensor_parallel_size=1,
        gpu_memory_utilization=vllm.gpu_memory_utilization,
        enforce_eager=vllm.enforce_eager,
        cpu_kvcache_gib=vllm.cpu_kvcache_gib,
    )


def _hf_engine(questions: Questions, config: RunConfig) -> HfEngine:
    from rto.models.device import resolve_device
    from rto.rollout.hf import HfEngine

    return HfEngine(
        questions.model,
        dtype=config.ds.dtype,
        device=resolve_device(config.train.device),
        attn_implementation=config.ds.attn_implementation,
    )


def show(
    console: Console, prompts: Sequence[str], samples: Sequence[Sample], per_prompt: int
) -> None:
    """Prompts and responses under their headings; text of any origin is safe to print."""
    from rich.text import Text

    for index, sample in enumerate(samples):
        number, repeat = divmod(index, per_prompt)
        if repeat == 0:
            console.print(Text(f"\nprompt {number + 1}", style="bold cyan"))
            console.print(Text(escape_control(prompts[number])), soft_wrap=True)
        cut = "" if sample.finished else f", cut at {len(sample.token_ids)} tokens"
        which = f" {repeat + 1} of {per_prompt}" if per_prompt > 1 else ""
        console.print(Text(f"\nresponse{which}{cut}", style="bold green"))
        console.print(Text(escape_control(sample.text)), soft_wrap=True)
