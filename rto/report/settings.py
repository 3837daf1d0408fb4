"""The settings that have an effect in a run, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping

from rto.report.collect import RunRecord
from rto.report.files import flat
from rto.sections import parse, reads
from rto.sections.methods import once_per_path
from rto.sections.names import accepted, spellings


def acting(run: RunRecord) -> dict[str, str]:
    """The settings that the run's command reads with its method; all of a folder that does not say
    what ran. A setting that this version does not know stays."""
    command, method = str(run.about.get("command", "")), run.about.get("method")
    if command not in reads.TRAINING or not isinstance(method, str):
        return dict(run.config)
    given = {name: value for name, value in run.config.items() if value != "null"}
    return {
        name: value
        for name, value in run.config.items()
        if name not in accepted() or reads.reads(command, method, name, given)
    }


@once_per_path
def defaults() -> Mapping[str, str]:
    """Each setting of this version by dotted name, its default as ``Run.config`` has values. Former
    spellings, which older folders hold, have that of the first method that has the setting."""
    values = parse.defaults()
    former = {name: values[next(iter(meant.values()))] for name, meant in spellings().items()}
    values |= {name: value for name, value in former.items() if "." in name}
    return dict(flat({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}))
