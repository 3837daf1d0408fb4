"""`rto generate`: sample responses from a run or a model, on an engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rto.cli.new_file import new_file
from rto.errors import UserError
from rto.models.exported import model_path
from rto.sections.parse import parse_run
from rto.sections.ranges import require
from rto.tracking.quiet import escape_control, quiet

if TYPE_CHECKING:
    from rto.rollout.requests import Sample


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
    console = Console(highlight=False)
    console.print(f"rto generate: {model}", style="dim", markup=False, soft_wrap=True)
    from rto.evaluation.generate import answer, prepare, write

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


def show(
    console: Console, prompts: Sequence[str], samples: Sequence[Sample], per_prompt: int
) -> None:
    """Prompts and responses under their headings; text of any origin is safe to print."""
    for index, sample in enumerate(samples):
        number, repeat = divmod(index, per_prompt)
        if repeat == 0:
            console.print(Text(f"\nprompt {number + 1}", style="bold cyan"))
            console.print(Text(escape_control(prompts[number])), soft_wrap=True)
        cut = "" if sample.finished else f", cut at {len(sample.token_ids)} tokens"
        which = f" {repeat + 1} of {per_prompt}" if per_prompt > 1 else ""
        console.print(Text(f"\nresponse{which}{cut}", style="bold green"))
        console.print(Text(escape_control(sample.text)), soft_wrap=True)
