"""`rto fit --authors_code`: the objectives that the code of arXiv 2506.13702 optimises.

What the flag leaves fixed: dropout is off, padding is masked, every tensor of the loss is [B], all
methods are sampled from alike. Temperatures, rates and batch sizes are hyperparameters, which the
examples carry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rto.errors import UserError
from rto.sections.run_config import RunConfig

OBJECTIVES: dict[str, dict[str, str]] = {
    "rpo": {"estimator": "batch_mean", "reduction": "mean"},
    "dro": {"variant": "shared_head", "reduction": "mean"},
    "kto": {"variant": "matched_mean", "threshold": "global_mean"},
}
"""Method -> the fields of its section. KTO's ``matched_mean`` averages log-probs over tokens."""


def with_authors_code(command: str, config: RunConfig) -> RunConfig:
    """The configuration with the authors' objective, where ``algo.authors_code`` asks for it.

    Raises:
        UserError: for another command, or a method that their code does not have.
    """
    name = config.algo.name
    if not config.algo.authors_code:
        return config
    if command != "fit":
        raise UserError(f"--authors_code is a flag of `rto fit`, not of `rto {command}`")
    if name not in OBJECTIVES:
        raise UserError(
            f"--authors_code: the RPO authors' code has {', '.join(OBJECTIVES)}, not {name}"
        )
    section: Any = vars(config.algo)[name]
    changed: Any = {name: replace(section, **OBJECTIVES[name])}
    return replace(config, algo=replace(config.algo, **changed))


def told(config: RunConfig) -> str:
    """The line that says what the flag has set."""
    name = config.algo.name
    fields = ", ".join(f"algo.{name}.{key} {value}" for key, value in OBJECTIVES[name].items())
    return f"the authors' code: {fields}"
