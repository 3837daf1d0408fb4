"""Check a data set of feedback: what it holds and what is wrong with it.

Rows are read one by one, and only findings, numbers and digests are kept. A bad row is a finding.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from datasets import Dataset

from rto.data.feedback.layouts import Answer, Layout, Row, read_answer, read_prompt, read_reward
from rto.data.sources import numbered_rows
from rto.data.storage.keys import digest
from rto.data.templates import Template, Where
from rto.errors import UserError

Severity = Literal["error", "warning"]
NAMED_ROWS = 5
BINS = 12

UNREADABLE_PROMPT = "prompts that cannot be read"
NO_RESPONSES = "rows without responses"
MALFORMED = "responses that cannot be read"
EMPTY = "empty or missing responses"
BAD_REWARD = "rewards that are missing or no number"
NOT_FINITE = "rewards that are NaN, or infinite in float32"
TEMPLATE = "prompts that the template refuses"
SEAM = "chat-template seams"
CORRECTED = "overall_score 10 read as 1"
DUPLICATE = "duplicates of a prompt and response"
SEVERAL = "responses to several prompts in a row"
IDENTICAL = "chosen equals rejected"
INVERTED = "chosen has the lower reward"
SINGLE = "prompts with one response"
LONG_PROMPT = "prompts that leave no room for a response"
CUT = "responses cut at the limit"


class Measure(Protocol):
    """Lengths of texts in ``unit``. Both methods raise UserError where a text cannot be used.

    ``closing`` units end a response that is not cut.
    """

    @property
    def unit(self) -> str: ...

    @property
    def closing(self) -> int: ...

    def prompt(self, prompt: object, where: Where) -> int: ...

    def response(self, prompt: object, text: str, where: Where) -> int: ...


@dataclass(frozen=True)
class Words:
    """Runs of non-blanks: a measure that needs no tokenizer."""

    unit: str = "words"
    closing: int = 0

    def prompt(self, prompt: object, where: Where) -> int:
        parts = prompt if isinstance(prompt, list) else [{"content": prompt}]
        return sum(len(str(message["content"]).split()) for message in parts)

    def response(self, prompt: object, text: str, where: Where) -> int:
        return len(text.split())


@dataclass(frozen=True)
class Tokens:
    """Tokens as training sees them; EoS closes a response."""

    template: Template
    unit: str = "tokens"
    closing: int = 1

    def prompt(self, prompt: object, where: Where) -> int:
        return len(self.template.encode_prompt(prompt, where))

    def response(self, prompt: object, text: str, where: Where) -> int:
        return len(self.template.encode_response(prompt, text, where).ids)


@dataclass
class Finding:
    """``count`` occurrences of one ``kind``, the first rows with it, and the first in words.

    Training refuses or drops what an error names. ``more_rows``: ``rows`` are not all.
    """

    kind: str
    severity: Severity
    example: str
    count: int = 0
    rows: list[int] = field(default_factory=list)
    more_rows: bool = False


@dataclass(frozen=True)
class Spread:
    """Numbers in brief; bin i of ``counts`` lies between ``edges`` i and i + 1."""

    mean: float
    std: float
    min: float
    median: float
    p95: float
    max: float
    counts: list[int]
    edges: list[float]


@dataclass(frozen=True)
class Report:
    """What `rto data check` says.

    ``num_usable`` responses can be trained on: they, their prompt and their reward can be read, and
    the prompt leaves room. ``truncated`` is the share of responses that ``max_len`` cuts, of those
    whose prompt leaves room.
    """

    source: str
    layout: str
    num_rows: int
    num_prompts: int
    num_responses: int
    num_usable: int
    responses_per_prompt: dict[int, int]
    rewards: Spread | None
    unit: str
    max_len: int | None
    prompt_length: Spread | None
    response_length: Spread | None
    truncated: float | None
    findings: list[Finding]


def check(
    rows: Dataset, layout: Layout, *, source: str, measure: Measure, max_len: int | None
) -> Report:
    """Read all rows once; see ``Report``."""
    prompt = layout.prompt_column(rows)
    notes = _Notes(layout, source, measure, max_len)
    for number, row in numbered_rows(rows, layout.needed(rows), source=source):
        notes.read(number, row, prompt)
    return notes.report(len(rows))


class _Notes:
    """What is kept of the rows read so far."""

    def __init__(self, layout: Layout, source: str, measure: Measure, max_len: int | None) -> None:
        self._layout, self._source, self._measure = layout, source, measure
        self._max_len = max_len
        self._findings: dict[str, Finding] = {}
        self._pairs: set[bytes] = set()
        self._prompts: dict[bytes, int] = {}
        self._first_row, self._num_responses = array("q"), array("q")
        self._rewards, self._prompt_lengths, self._lengths = array("d"), array("q"), array("q")
        self._num_cut = self._num_fitting = self._num_usable = 0

    def read(self, number: int, row: Row, prompt_column: str) -> None:
        where = Where(self._source, number, prompt_column)
        prompt: object = None
        if self._layout.prompted:
            try:
                prompt = read_prompt(row[prompt_column], where)
            except UserError as error:
                self._note(UNREADABLE_PROMPT, number, str(error))
                return
        answers = list(self._layout.answers(row))
        if not answers:
            self._note(NO_RESPONSES, number, f"row {number}: '{self._layout.columns[0]}' is empty")
        read = [self._text(answer, prompt, where) for answer in answers]
        asked = next((each[0] for each in read if each is not None), prompt)
        if asked is None:
            return
        if any(each is not None and each[0] != asked for each in read):
            self._note(SEVERAL, number, f"row {number}: the turns before the last are not the same")
            return
        index = self._index(asked, number)
        size = self._prompt_length(asked, where, is_new=self._first_row[index] == number)
        rated = [
            self._answer(answer, each, index, size, where)
            for answer, each in zip(answers, read, strict=True)
        ]
        if self._layout.paired:
            self._compare(number, *rated)

    def report(self, num_rows: int) -> Report:
        for row, count in zip(self._first_row, self._num_responses, strict=True):
            if count == 1 and not self._layout.binary:
                said = f"row {row}: nothing to compare its response with"
                self._note(SINGLE, row, said, severity="warning")
        return Report(
            source=self._source,
            layout=self._layout.name,
            num_rows=num_rows,
            num_prompts=len(self._prompts),
            num_responses=sum(self._num_responses),
            num_usable=self._num_usable,
            responses_per_prompt=dict(sorted(Counter(self._num_responses).items())),
            rewards=spread(self._rewards),
            unit=self._measure.unit,
            max_len=self._max_len,
            prompt_length=spread(self._prompt_lengths),
            response_length=spread(self._lengths),
            truncated=self._num_cut / self._num_fitting if self._num_fitting else None,
            findings=sorted(self._findings.values(), key=lambda x: (x.severity, -x.count)),
        )

    def _answer(
        self,
        answer: Answer,
        read: tuple[object, str] | None,
        index: int,
        size: int | None,
        where: Where,
    ) -> tuple[str, float] | None:
        """The response and its reward, where both can be used."""
        reward = self._reward(answer, where) if not answer.problem else None
        if read is None:
            return None
        prompt, text = read
        self._num_responses[index] += 1
        self._num_usable += reward is not None and size is not None
        if size is not None:
            self._measure_response(prompt, text, size, where)
        key = digest(prompt, text)
        if key in self._pairs:
            said = f"row {where.row}: '{answer.field}' answers its prompt a second time"
            self._note(DUPLICATE, where.row, said, severity="warning")
        self._pairs.add(key)
        return None if reward is None else (text, reward)

    def _text(self, answer: Answer, prompt: object, where: Where) -> tuple[object, str] | None:
        """(prompt, response), where the response can be read."""
        try:
            return read_answer(answer, prompt, where)
        except UserError as error:
            blank = not answer.problem and isinstance(answer.text, str | None)
            self._note(EMPTY if blank else MALFORMED, where.row, str(error))
            return None

    def _reward(self, answer: Answer, where: Where) -> float | None:
        try:
            reward = read_reward(answer, self._layout, where)
        except UserError as error:
            kind = NOT_FINITE if type(answer.reward) in (int, float) else BAD_REWARD
            self._note(kind, where.row, str(error))
            return None
        if self._layout.rated:
            self._rewards.append(reward)
        if answer.corrected:
            said = f"row {where.row}: '{answer.reward_field}' is 10, its mean rating is at most 2"
            self._note(CORRECTED, where.row, said, severity="warning")
        return reward

    def _prompt_length(self, prompt: object, where: Where, *, is_new: bool) -> int | None:
        """None where the template refuses the prompt, or it leaves no room for a response."""
        try:
            size = self._measure.prompt(prompt, where)
        except UserError as error:
            self._note(TEMPLATE, where.row, str(error))
            return None
        if is_new:
            self._prompt_lengths.append(size)
        if self._max_len is not None and size >= self._max_len:
            said = f"row {where.row}: {size} {self._measure.unit}, limit {self._max_len}"
            self._note(LONG_PROMPT, where.row, said)
            return None
        return size

    def _measure_response(self, prompt: object, text: str, size: int, where: Where) -> None:
        try:
            length = self._measure.response(prompt, text, where)
        except UserError as error:
            self._note(SEAM, where.row, str(error))
            return
        self._lengths.append(length)
        if self._max_len is None:
            return
        self._num_fitting += 1
        total = size + length + self._measure.closing
        if total > self._max_len:
            self._num_cut += 1
            said = f"row {where.row}: {total} {self._measure.unit}, limit {self._max_len}"
            self._note(CUT, where.row, said, severity="warning")

    def _compare(
        self, row: int, chosen: tuple[str, float] | None, rejected: tuple[str, float] | None
    ) -> None:
        if chosen is None or rejected is None:
            return
        if chosen[0] == rejected[0]:
            said = f"row {row}: both sides are one text"
            self._note(IDENTICAL, row, said, severity="warning")
        elif chosen[1] < rejected[1]:
            said = f"row {row}: {chosen[1]:g} against {rejected[1]:g}"
            self._note(INVERTED, row, said, severity="warning")

    def _index(self, prompt: object, row: int) -> int:
        index = self._prompts.setdefault(digest(prompt), len(self._prompts))
        if index == len(self._first_row):
            self._first_row.append(row)
            self._num_responses.append(0)
        return index

    def _note(self, kind: str, row: int, said: str, *, severity: Severity = "error") -> None:
        finding = self._findings.setdefault(kind, Finding(kind, severity, said))
        finding.count += 1
        if row in finding.rows:
            return
        if len(finding.rows) < NAMED_ROWS:
            finding.rows.append(row)
        else:
            finding.more_rows = True


def spread(values: array[int] | array[float]) -> Spread | None:
    """None of no values."""
    if not values:
        return None
    numbers = np.frombuffer(values, dtype=values.typecode)
    counts, edges = np.histogram(numbers, bins=_bins(numbers))
    low, median, p95, high = np.quantile(numbers, [0, 0.5, 0.95, 1]).tolist()
    return Spread(
        mean=float(numbers.mean()),
        std=float(numbers.std()),
        min=low,
        median=median,
        p95=p95,
        max=high,
        counts=counts.tolist(),
        edges=edges.tolist(),
    )


def _bins(numbers: np.ndarray) -> int | list[float]:
    """One bin for each of a few values, such as scores from 1 to 10; else of equal width."""
    distinct = np.unique(numbers[:10_000])
    few = len(distinct) <= BINS and np.isin(numbers, distinct).all()
    return [*distinct.tolist(), float(distinct[-1])] if few else BINS


def unusable(report: Report) -> str | None:
    """Why no run could use the data set, where that is so."""
    if report.num_usable > 0:
        return None
    said = report.findings[0].example
    return f"{report.source}: no usable response in {report.num_rows} rows: {said}"
