"""The flags of `rto eval`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

from rto.cli.one_line_parser import OneLineParser
from rto.errors import UserError, nearest
from rto.evaluation.measured import MetricModels
from rto.evaluation.metrics import METRICS
from rto.evaluation.plan import AnswerSource, JudgeKind, JudgeSpec, Options
from rto.sections.parse import parse_run
from rto.sections.paths import absolute_path
from rto.sections.ranges import check_tree, require
from rto.sections.runtime import Decoding

EXPORTS = ("last", "best")
RUN_FLAGS = ("--config", "--dry_run", "--seed", "--help")
"""Those of a run that have no dot in their names."""
DESCRIPTION = """\
Sample responses of a model, and of a baseline, to the same prompts with the same decoding and
seeds, or read them from files; print metrics with intervals and the win rate by each judge."""


def parse(argv: Sequence[str]) -> Options:
    """The options; flags with a dot, --config and --dry_run are those of a run.

    Raises:
        UserError: one line with the flag and the remedy.
    """
    flags = parser()
    given, rest = flags.parse_known_args(list(argv))
    _check_known(rest, [name for name in flags._option_string_actions if name.startswith("--")])
    run = parse_run("eval", rest, own=flags)
    model, baseline = _policies(given)
    if given.prompts is None:
        raise UserError("no prompts: give --prompts FILE_OR_HUB_ID")
    _make_absolute(given)
    judges = [_judge(text) for text in given.judge]
    _check_judges(given, judges, baseline)
    decoding = _decoding(given)
    sources = [source for source in (model, baseline) if source is not None]
    _check_reference(given, decoding, sampled=not all(source.is_outputs for source in sources))
    as_given = {f.name: vars(given)[f.name] for f in fields(Options) if f.name in given}
    return Options(
        **{
            **as_given,
            "model": model,
            "baseline": baseline,
            "judges": judges,
            "metrics": _metrics(given.metrics),
            "metric_models": _metric_models(given),
            "decoding": decoding,
            "judge_options": _judge_options(given.judge_options),
            "judge_prices": _prices(given.judge_prices),
            "config": run.config,
            "dry_run": run.dry_run,
        }
    )


def parser() -> argparse.ArgumentParser:
    """Its help is that of the other commands (``rto.sections.help``)."""
    parser = OneLineParser(prog="rto eval", description=DESCRIPTION, add_help=False,
                           allow_abbrev=False)  # fmt: skip
    _add_policies(parser)
    _add_decoding(parser)
    _add_metrics(parser)
    _add_judges(parser)
    return parser


def _add_policies(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("policies", "What is evaluated, on which prompts.").add_argument
    add("--model", metavar="RUN_OR_DIR", help="run folder, model directory or hub id")
    add("--outputs", metavar="FILE", help="the model's responses, instead of sampling them")
    add("--name", help="what the model is called; its folder's name by default")
    add("--baseline", metavar="RUN_OR_DIR", help="what the model is compared with")
    add("--baseline_outputs", metavar="FILE", help="the baseline's responses")
    add("--baseline_name", metavar="NAME", help="what the baseline is called; its folder's name "
        "by default")  # fmt: skip
    add("--prompts", metavar="FILE_OR_HUB_ID", help="AlpacaEval, Arena-Hard, "
        "MT-Bench, rated responses, or any column of prompts")  # fmt: skip
    add("--split", default="train", help="of a hub id or a saved dataset")
    add("--prompt_key", metavar="COLUMN", help="the prompts' column; told by its name by default")
    add("--reference_key", metavar="COLUMN", help="the references' column, likewise")
    add("--max_prompts", type=_positive, metavar="N", help="only the first N prompts, 1 or more")
    add("--output_dir", metavar="DIR", help="runs/eval- and the time by default")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    """Described where `rto generate` declares them."""
    add = parser.add_argument_group("decoding", "How all policies are sampled from.").add_argument
    for name, value in vars(Decoding()).items():
        if isinstance(value, list):
            add(f"--{name}", action="append", default=value, metavar="TEXT")
        else:
            add(f"--{name}", type=type(value), default=value)


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("metrics", "What is measured of the responses.").add_argument
    add("--metrics", metavar="A,B", help="text metrics that must be computed; all that can be had "
        "by default, `none` for none")  # fmt: skip
    add("--reference", metavar="RUN_OR_DIR", help="model that the KL is measured to")
    add("--reward_model", action="append", default=[], metavar="DIR", dest="reward_models",
        help="model that scores the responses; may be repeated")  # fmt: skip
    add("--bertscore_model", default="roberta-large", help="hub id or directory")
    add("--bertscore_layers", type=_positive, metavar="N", help="layer that BERTScore reads, 1 or "
        "more; the one that its authors chose for the model by default")  # fmt: skip
    add("--toxicity_model", metavar="DIR", help="text classifier; alt-profanity-check without it")
    add("--toxicity_label", default="hate", help="its label for toxic text")


def _add_judges(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("judges", "Who compares model and baseline.").add_argument
    add("--judge", action="append", default=[], metavar="KIND:MODEL", help="reward:DIR, "
        "vllm:MODEL or openai:MODEL; may be repeated")  # fmt: skip
    add("--judge_prompt", default="pairwise", help="pairwise, short or a YAML file")
    add("--judge_url", default="https://api.openai.com/v1", help="endpoint of an openai judge")
    add("--judge_key_env", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds "
        "the endpoint's key")  # fmt: skip
    add("--judge_options", default="{}", metavar="JSON", help="joins each request; null removes")
    add("--judge_max_tokens", type=_positive, default=1024, help="longest answer, 1 or more")
    add("--judge_timeout", type=_seconds, default=120.0, help="seconds per attempt, above 0")
    add("--judge_concurrency", type=_positive, default=8, help="requests at once, 1 or more")
    add("--judge_prices", metavar="IN,OUT", help="per million tokens, for the cost that is shown")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e7:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0 and at most 1e7")
    return value


def _check_known(rest: Sequence[str], known: Sequence[str]) -> None:
    """What is left must be flags of a run: others are nearest to one of ours."""
    for token in rest:
        name = token.partition("=")[0]
        if name.startswith("--") and "." not in name and name not in RUN_FLAGS:
            hint = nearest(name, known)
            raise UserError(f"eval: unknown flag {name}{f': {hint}' if hint else ''}")


def _make_absolute(given: argparse.Namespace) -> None:
    """The paths of this command's own flags, as those of a run are: an actor reads them too."""
    for name in ("prompts", "reference", "bertscore_model", "toxicity_model", "output_dir"):
        value = vars(given)[name]
        if value is not None:
            vars(given)[name] = absolute_path(value, hub=name != "output_dir")
    given.reward_models = [absolute_path(path) for path in given.reward_models]


def _policies(given: argparse.Namespace) -> tuple[AnswerSource, AnswerSource | None]:
    """The model, and what it is compared with."""
    model = _source(given.model, given.outputs, given.name, "--model", "--outputs")
    if model is None:
        raise UserError("no model: give --model RUN_OR_DIR, or its responses with --outputs FILE")
    baseline = _source(
        given.baseline, given.baseline_outputs, given.baseline_name, "--baseline",
        "--baseline_outputs",
    )  # fmt: skip
    require(
        baseline is None or baseline.name != model.name,
        f"model and baseline are both called {model.name}: give --name or --baseline_name",
    )
    return model, baseline


def _source(
    path: str | None, outputs: str | None, name: str | None, flag: str, outputs_flag: str
) -> AnswerSource | None:
    require(path is None or outputs is None, f"{flag} and {outputs_flag}: give one of them")
    given = path or outputs
    if given is None:
        return None
    called = name or _name(given)
    require(
        called.strip(".") != "" and len(called) <= 200,
        f"{flag} is called {called!r:.60}, which can be no folder's name: give --name or "
        "--baseline_name",
    )
    return AnswerSource(called, absolute_path(given, hub=outputs is None), path is None)


def _name(path: str) -> str:
    """The last part of a path that says something."""
    parts = [part for part in Path(path).parts if part not in EXPORTS and part != "/"]
    if parts and Path(parts[-1]).suffix in (".json", ".jsonl"):
        stem = Path(parts[-1]).stem
        generic = stem in ("model_outputs", "arena_hard", "mt_bench") and len(parts) > 1
        return parts[-2] if generic else stem
    return parts[-1] if parts else path


def _judge(text: str) -> JudgeSpec:
    kind, colon, target = text.partition(":")
    for known in get_args(JudgeKind):
        if kind == known and colon and target:
            return JudgeSpec(known, target if kind == "openai" else absolute_path(target))
    raise UserError(f"--judge {text}: write reward:DIR, vllm:MODEL or openai:MODEL")


def _metrics(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name for name in text.split(",") if name != "none"]
    for name in names:
        if name not in METRICS:
            hint = nearest(name, METRICS) or f"one of {', '.join(METRICS)}"
            raise UserError(f"--metrics {name}: no such metric: {hint}")
    return names


def _metric_models(given: argparse.Namespace) -> MetricModels:
    return MetricModels(
        bertscore=given.bertscore_model,
        bertscore_layers=given.bertscore_layers,
        toxicity=given.toxicity_model,
        toxicity_label=given.toxicity_label,
    )


def _judge_options(text: str) -> dict[str, object]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise UserError(f"--judge_options {text}: not JSON: {error}") from error
    require(isinstance(options, dict), f"--judge_options {text}: give an object")
    return options


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        read, written = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--judge_prices {text}: write IN,OUT, two numbers") from error
    require(
        all(0 <= price < math.inf for price in (read, written)), f"--judge_prices {text}: 0 or more"
    )
    return read, written


def _decoding(given: argparse.Namespace) -> Decoding:
    decoding = Decoding(**{f.name: vars(given)[f.name] for f in fields(Decoding)})
    check_tree(decoding, "--")
    return decoding


def _check_judges(
    given: argparse.Namespace, judges: Sequence[JudgeSpec], baseline: AnswerSource | None
) -> None:
    require(
        given.judge_key_env.isidentifier(),
        "--judge_key_env names the environment variable that holds the key: letters, digits and _; "
        "the key itself is never a flag",
    )
    require(
        not judges or baseline is not None,
        "--judge compares with a baseline: give --baseline RUN_OR_DIR or --baseline_outputs FILE",
    )


def _check_reference(given: argparse.Namespace, decoding: Decoding, *, sampled: bool) -> None:
    if given.reference is None:
        return
    require(
        sampled,
        "--reference: the KL needs the sampler's log-probs: give --model, not only --outputs",
    )
    require(
        decoding.temperature > 0,
        "--reference with --temperature 0: greedy decoding has no KL; sample, or leave it out",
    )
