"""What `rto data` does with a data set: read it for a report, or write it in another layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import disable_progress_bars

from rto.data.feedback.check import Measure, Report, Tokens, Words, check, unusable
from rto.data.feedback.convert import Conversion, Duplicates, Normalise, Target, Threshold, Written
from rto.data.feedback.read import Source
from rto.data.templates import load_template
from rto.errors import UserError
from rto.sections.data import Data


def usable_report(
    source: str,
    data: Data,
    *,
    split: str,
    model: str | None,
    chat_template: str | None,
    max_len: int | None,
) -> Report:
    """What the data set holds, in tokens of ``model`` where one is given, else in words.

    Raises:
        UserError: none of it can be used.
    """
    source_rows = _opened(source, data, split)
    report = check(
        source_rows.rows,
        source_rows.layout,
        source=source,
        measure=_measure(model, chat_template),
        max_len=max_len,
    )
    problem = unusable(report)
    if problem is not None:
        raise UserError(problem)
    return report


def convert_file(
    source: str,
    data: Data,
    paths: Sequence[Path],
    *,
    source_split: str,
    to: Target,
    normalise: Normalise,
    threshold: Threshold | None,
    duplicates: Duplicates,
    split: float | None,
    seed: int,
) -> list[Written]:
    """Write the rows in the layout ``to``; with a ``split``, to two files."""
    source_rows = _opened(source, data, source_split)
    conversion = Conversion(
        rows=source_rows.rows,
        layout=source_rows.layout,
        source=source,
        to=to,
        normalise=normalise,
        threshold=threshold,
        duplicates=duplicates,
        split=split,
        seed=seed,
    )
    return conversion.write(paths)


def _opened(source: str, data: Data, split: str) -> Source:
    disable_progress_bars()
    return Source.open(source, data, split=split)


def _measure(model: str | None, chat_template: str | None) -> Measure:
    if model is None:
        return Words()
    return Tokens(load_template(model, Data(chat_template=chat_template)))
