"""Choose the responses that a report shows: a prompt's first beside its last, with token scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from rto.errors import foreign
from rto.report.collect import RunRecord
from rto.tracking.quiet import escape_control
from rto.tracking.rollout_read import find_rollouts, read_rollouts

MAX_TOKENS = 400
"""Of a response; what is longer is cut, and the page says so."""
MAX_PROMPT = 4000
"""Characters of a prompt."""
SCAN_BYTES = 32 * 2**20
"""Of rollout files between the first and the last, compressed, that are searched for prompts."""
SCALES = {
    "dpo": ("dpo", "dpo_reference", "reference"),
    "kl": ("policy", "reference"),
}
"""Token scores: the log-probs of the first role minus those of the next one that is there."""

SUMS = {"dpo": "DPO reward", "kl": "log π/π_ref"}


@dataclass(frozen=True)
class Response:
    """One sampled response. ``scores`` are numbers of the whole response, ``tokens`` of its first
    ``MAX_TOKENS`` tokens: ``dpo`` is RTO's token reward before scale and clip, log pi_dpo / pi_ref.
    """

    prompt_id: int
    iteration: int
    prompt: str
    text: str
    ids: tuple[int, ...]
    length: int
    finished: bool
    scores: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, Sequence[float]] = field(default_factory=dict)


def read_response(row: Mapping[str, Any], iteration: int) -> Response:
    """A row of a rollout file; ``iteration`` counts from 1."""
    roles = row["scores"]
    by_token = {role: value["tokens"] for role, value in roles.items() if _has_tokens(value)}
    tokens: dict[str, list[float]] = {}
    for name, (role, *references) in SCALES.items():
        reference = next((other for other in references if other in by_token), None)
        if role in by_token and reference is not None:
            pairs = zip(by_token[role], by_token[reference], strict=True)
            tokens[name] = [round(a - b, 4) for a, b in pairs]
    scores = {role: v for role, v in roles.items() if isinstance(v, (int, float))}
    scores |= {SUMS[name]: sum(values) for name, values in tokens.items()}
    scores |= {f"log π {role}": v["sum"] for role, v in roles.items() if _has_sum(v)}
    if "critic" in by_token:
        tokens["value"] = by_token["critic"]
        scores["mean value"] = fmean(by_token["critic"])
    return Response(
        prompt_id=row["prompt_id"],
        iteration=iteration,
        prompt=clean(row["prompt"], MAX_PROMPT),
        text=clean(row["response"], MAX_TOKENS * 10),
        ids=tuple(row["response_ids"][:MAX_TOKENS]),
        length=len(row["response_ids"]),
        finished=bool(row["finished"]),
        scores=scores,
        tokens={name: values[:MAX_TOKENS] for name, values in tokens.items()},
    )


def _has_tokens(value: object) -> bool:
    return isinstance(value, dict) and "tokens" in value


def _has_sum(value: object) -> bool:
    return isinstance(value, dict) and "sum" in value


def clean(text: str, limit: int) -> str:
    """Text of any origin, with control characters made visible, cut to ``limit`` characters."""
    shown = escape_control(text[:limit])
    return shown if len(text) <= limit else f"{shown} … ({len(text) - limit:,} more characters)"


@dataclass(frozen=True)
class Before:
    """A prompt's first response in a run, and its last one where that is another iteration's."""

    first: Response
    last: Response | None = None


def first_and_last(run: RunRecord, *, scan_bytes: int = SCAN_BYTES) -> dict[str, Before]:
    """By prompt: the responses of the first iteration and of the last.

    A prompt of the first iteration that the last one does not have is looked for in the ones
    between, latest first, up to ``scan_bytes``. Of a group the first response counts.
    """
    files = find_rollouts(run.path)
    if not files:
        return {}
    iterations = list(files)
    begin, end = iterations[0], iterations[-1]
    first = _by_prompt(files[begin], begin)
    if begin == end:
        return {text: Before(response) for text, response in first.items()}
    last = _by_prompt(files[end], end)
    later = {text: last[text] for text in first.keys() & last.keys()}
    for iteration in reversed(iterations[1:-1]):
        scan_bytes -= files[iteration].stat().st_size
        if scan_bytes < 0 or len(later) == len(first):
            break
        wanted = first.keys() - later.keys()
        later |= _by_prompt(files[iteration], iteration, wanted)
    found = {text: Before(response, later.get(text)) for text, response in first.items()}
    return found | {text: Before(r) for text, r in last.items() if text not in first}


def _by_prompt(path: Path, iteration: int, wanted: set[str] | None = None) -> dict[str, Response]:
    """The first response to each prompt of one iteration's file."""
    found: dict[str, Response] = {}
    for number, row in enumerate(read_rollouts(path), start=1):
        with foreign(f"{path}:{number}: not a rollout", "remove the file"):
            text = clean(row["prompt"], MAX_PROMPT)
            if text not in found and (wanted is None or text in wanted):
                found[text] = read_response(row, iteration + 1)
    return found


def choose(found: Sequence[Mapping[str, Before]], *, count: int, tokens: int) -> list[str]:
    """Prompts to show, those with most responses to compare first, then spread evenly over reward;
    in the order of ``telling``, whose first prompt is always among them.

    ``found`` has one mapping per run. At most ``count``, and ``tokens`` tokens in all.
    """
    prompts = {text: None for each in found for text in each}
    if not prompts:
        return []
    by_size: dict[int, list[str]] = {}
    for text in prompts:
        by_size.setdefault(len(responses(found, text)), []).append(text)
    first = telling(found, prompts)[0]
    picked = [first]
    for size in sorted(by_size, reverse=True):
        ranked = sorted(by_size[size], key=lambda text: (_reward(found, text), text))
        others = [text for text in ranked if text != first]
        picked += spread(others, count - len(picked))
    shown: list[str] = []
    for text in picked:
        tokens -= sum(len(r.ids) for r in responses(found, text))
        if tokens < 0 and shown:
            break
        shown.append(text)
    return telling(found, shown)


def telling(found: Sequence[Mapping[str, Before]], prompts: Iterable[str]) -> list[str]:
    """The prompts, those that a run's last iteration answered first, strong token scores before
    weak ones (mean size): RTO's token rewards where a run has them, else the other scores."""
    newest = [max((r.iteration for t in each for r in _pair(each[t])), default=0) for each in found]
    latest = {
        text: [
            r
            for each, last in zip(found, newest, strict=True)
            if text in each
            for r in _pair(each[text])
            if r.iteration == last
        ]
        for text in prompts
    }
    kinds = {name for text in latest for r in responses(found, text) for name in r.tokens}
    kind = next((name for name in (*SCALES, "value") if name in kinds), "")

    def order(text: str) -> tuple[bool, float, int]:
        shown = latest[text] or responses(found, text)
        means = [fmean(map(abs, r.tokens[kind])) for r in shown if r.tokens.get(kind)]
        return not latest[text], -max(means, default=0.0), -len(responses(found, text))

    return sorted(latest, key=order)


def _pair(pair: Before) -> list[Response]:
    return [r for r in (pair.first, pair.last) if r is not None]


def responses(found: Sequence[Mapping[str, Before]], text: str) -> list[Response]:
    return [r for each in found if text in each for r in _pair(each[text])]


def _reward(found: Sequence[Mapping[str, Before]], text: str) -> float:
    shown = responses(found, text)
    return sum(r.scores.get("reward", 0.0) for r in shown) / len(shown)


def spread(ranked: Sequence[str], count: int) -> list[str]:
    """``count`` of the entries at even distances, both ends included."""
    if count <= 0 or len(ranked) <= count:
        return list(ranked[: max(count, 0)])
    if count == 1:
        return [ranked[len(ranked) // 2]]
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def find_tokenizer(run: RunRecord) -> Tokenizer | None:
    """The tokenizer that the run exported, or that of the model it started from."""
    folders = [run.path / "last", run.path / "best"]
    if run.config.get("actor.model_name_or_path"):
        folders.append(Path(run.config["actor.model_name_or_path"]))
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            path = folder / "tokenizer.json"
            with foreign(f"{path}: no tokenizer", "restore or remove it"):
                return Tokenizer.from_file(str(path))
    return None


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; "" for one that only completes a character with the next."""
    stream = DecodeStream(skip_special_tokens=False)
    return [escape_control(stream.step(tokenizer, token) or "") for token in ids]
