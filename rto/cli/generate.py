"""`rto generate`: sample responses from a run or a model, on an engine in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rto.errors import UserError, foreign
from rto.sections.parse import parse_run
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.tracking.quiet import escape_control, quiet
from rto.tracking.run_folder import write_atomic

if TYPE_CHECKING:
    from rich.console import Console

    from rto.evaluation.questions import Question
    from rto.rollout.engine import EngineName
    from rto.rollout.requests import Sample


@dataclass(frozen=True)
class Questions:
    """The prompts as they were asked, and as the model reads them (``texts``, ``token_ids``);
    ``engine`` samples; ``stops`` end a response; ``max_len`` bounds prompt plus response, in
    tokens."""

    model: str
    asked: Sequence[Question]
    texts: Sequence[str]
    token_ids: Sequence[tuple[int, ...]]
    chat_template: bool
    engine: EngineName
    stops: tuple[int, ...]
    max_len: int


def main(argv: Sequence[str]) -> int:
    """Print a response, or several, to each prompt, or write them to a file."""
    parsed = parse_run("generate", argv)
    options = parsed.config.generate
    if options.model is None:
        raise UserError("no model: give --model RUN_OR_HF_DIR")
    require(
        bool(options.prompt or options.prompts),
        'no prompt: give --prompt "..." once or several times, or --prompts FILE',
    )
    model = model_path(options.model)
    out = None if options.out is None else new_file("--out", options.out)
    quiet(None)
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"rto generate: {model}", style="dim", markup=False, soft_wrap=True)
    questions = prepare(model, parsed.config)
    template = "applied" if questions.chat_template else "none"
    num = len(questions.asked)
    console.print(f"{num} prompt{'s'[: num > 1]}, chat template {template}", style="dim")
    if parsed.dry_run:
        return 0
    samples = answer(questions, parsed.config)
    if out is None:
        prompts = [question.turns[0] for question in questions.asked]
        show(console, prompts, samples, options.num_samples)
    else:
        write(out, questions.asked, samples, options.num_samples)
        console.print(f"{len(samples)} responses in {out}", markup=False, soft_wrap=True)
    return 0


def new_file(flag: str, path: str) -> Path:
    """A file that can be written and is not there yet; nothing is created.

    Raises:
        UserError: it exists, or cannot be made.
    """
    file = writable(flag, path)
    require(not file.exists(), f"{flag} {path}: exists; give another name, or remove it")
    return file


def writable(flag: str, path: str) -> Path:
    """The path with ~ resolved, if something can be made there.

    Raises:
        UserError: its name is too long, or the folder that is there cannot be written to.
    """
    with foreign(f"{flag} {path:.200}: cannot be made", "give another name"):
        place = Path(path).expanduser()
        place.exists()
        folder = next(each for each in place.absolute().parents if each.exists())
    require(
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        f"{flag} {path}: {folder} is no folder that can be written to",
    )
    return place


def model_path(path: str) -> str:
    """A run folder's newest export; any other directory, and a hub id, as it is.

    Raises:
        UserError: the run has no export, or there is no such folder.
    """
    folder = Path(path).expanduser()
    with foreign(f"{path}: no such folder", "give a run folder, a model directory or a hub id"):
        if (folder / "last" / "config.json").is_file():
            return str(folder / "last")
        is_run = (folder / "config.yaml").is_file() and not (folder / "config.json").is_file()
        is_folder = folder.is_dir()
    if is_run:
        raise UserError(f"{path}: this run has no `last` export yet: wait for a checkpoint")
    if is_folder:
        return str(folder)
    if path.count("/") != 1 or path.startswith(("/", ".", "~", "runs/")):
        raise UserError(f"{path}: no such folder: give a run folder, a model directory or a hub id")
    return path


def prepare(model: str, config: RunConfig) -> Questions:
    """The prompts of ``config``, rendered and tokenised for ``model``.

    Raises:
        UserError: a prompt is empty or fills the model's context.
    """
    from rto.data.templates import Where, load_template
    from rto.evaluation.questions import rendered
    from rto.models.load import load_config
    from rto.models.rope import max_positions
    from rto.rollout.engine import settled
    from rto.rollout.requests import Sampling

    template = load_template(model, config.data)
    options = config.generate
    vllm = settled(config.vllm, model, encoder_decoder=template.encoder_decoder)
    if vllm.engine == "vllm":
        Sampling.of(options).check_vllm()
    source = options.prompts or "--prompt"
    asked = questions_of(config)
    places = [Where(source, question.row, "prompt") for question in asked]
    texts = [
        rendered(question, (), template, source)
        if options.prompts
        else template.prompt(question.turns[0], place)
        for question, place in zip(asked, places, strict=True)
    ]
    token_ids = [
        template.demand_tokens(template.prompt_ids(text), place)
        for text, place in zip(texts, places, strict=True)
    ]
    longest = max(map(len, token_ids))
    context = max_positions(load_config(model)) or longest + options.max_new_tokens
    require(
        longest < context,
        f"{source}: {longest} tokens fill the context of {model}, which is {context}",
    )
    return Questions(
        model=model,
        asked=asked,
        texts=texts,
        token_ids=token_ids,
        chat_template=template.apply_chat_template,
        engine=vllm.engine,
        stops=template.stop_token_ids,
        max_len=min(context, longest + options.max_new_tokens),
    )


def questions_of(config: RunConfig) -> list[Question]:
    """What is asked, of one turn each.

    Raises:
        UserError: the file holds no prompts, or one of several turns.
    """
    from rto.evaluation.questions import Question, load_questions

    options = config.generate
    if options.prompts is None:
        return [Question(n, (prompt,), row=n) for n, prompt in enumerate(options.prompt)]
    found = load_questions(
        options.prompts, split=config.data.prompt_split, prompt_key=options.prompt_key
    )
    for question in found:
        require(
            len(question.turns) == 1,
            f"{options.prompts}: question {question.id} has {len(question.turns)} turns: "
            "`rto eval` asks them one after another",
        )
    return found


def answer(questions: Questions, config: RunConfig) -> list[Sample]:
    """``generate.num_samples`` responses to each prompt, those of one prompt side by side."""
    from rto.models.device import with_dtype
    from rto.rollout.engine import alone, build_engine
    from rto.rollout.requests import SampleRequest, Sampling
    from rto.rollout.seeds import request_seed

    config = with_dtype(config)
    options = config.generate
    engine = build_engine(
        questions.model,
        alone(config, questions.engine),
        max_len=questions.max_len,
        device=config.train.device,
    )
    engine.accept(0)
    requests = [
        SampleRequest(ids, request_seed(config.train.seed, 0, number, sample))
        for number, ids in enumerate(questions.token_ids)
        for sample in range(options.num_samples)
    ]
    sampling = Sampling.of(options, stop_token_ids=questions.stops)
    return engine.generate(requests, sampling, 0)


def write(
    path: Path, asked: Sequence[Question], samples: Sequence[Sample], per_prompt: int
) -> None:
    """A JSON line per response, those of one prompt side by side; `rto eval --outputs` reads
    them."""
    lines = [
        json.dumps(
            {
                "id": asked[index // per_prompt].id,
                "prompt": asked[index // per_prompt].turns[0],
                "response": sample.text,
                "sample": index % per_prompt,
                "finished": sample.finished,
            }
        )
        for index, sample in enumerate(samples)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(lines) + "\n")


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
