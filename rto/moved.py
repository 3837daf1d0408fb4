"""Former names of modules, so that packages written for them still find what they import.

The import system asks this finder only for names that no file has.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "rto.cli.eval_progress": "rto.evaluation.progress",
    "rto.cli.foreign": "rto.sections.foreign",
    "rto.cli.help": "rto.sections.help",
    "rto.cli.parse": "rto.sections.parse",
    "rto.cli.preflight": "rto.runs.preflight",
    "rto.cli.reads": "rto.sections.reads",
    "rto.cluster.check_models": "rto.runs.check_models",
    "rto.cluster.evaluate": "rto.runs.evaluate",
    "rto.cluster.held_out": "rto.runs.held_out",
    "rto.cluster.keeper": "rto.runs.checkpointing",
    "rto.cluster.offline": "rto.runs.offline",
    "rto.cluster.online": "rto.runs.online",
    "rto.cluster.ptx": "rto.training.pretrain_mix",
    "rto.cluster.self_check": "rto.runs.self_check",
    "rto.cluster.sharding": "rto.batching.shards",
    "rto.cluster.stages": "rto.runs.prepare",
    "rto.cluster.stored": "rto.runs.stored_scores",
    "rto.config": "rto.sections.run_config",
    "rto.data.arrow": "rto.data.storage.arrow",
    "rto.data.check": "rto.data.feedback.check",
    "rto.data.convert": "rto.data.feedback.convert",
    "rto.data.files": "rto.data.storage.row_files",
    "rto.data.groups": "rto.data.storage.groups",
    "rto.data.intake": "rto.data.accounting",
    "rto.data.json_values": "rto.data.storage.json_values",
    "rto.data.keys": "rto.data.storage.keys",
    "rto.data.layouts": "rto.data.feedback.layouts",
    "rto.data.microbatch": "rto.batching.microbatch",
    "rto.data.offline": "rto.data.batches",
    "rto.data.preferences": "rto.data.loaders.pairs",
    "rto.data.prompts": "rto.data.loaders.prompts",
    "rto.data.rated": "rto.data.loaders.rated",
    "rto.data.reference_cache": "rto.runs.reference_cache",
    "rto.data.sft": "rto.data.loaders.demonstrations",
    "rto.data.verdicts": "rto.data.feedback.verdicts",
    "rto.evaluation.compare": "rto.comparison.tables",
    "rto.functional.observe": "rto.observe",
    "rto.methods.narrow": "rto.methods.expect",
    "rto.paths": "rto.sections.paths",
    "rto.ranges": "rto.sections.ranges",
    "rto.rollout.digest": "rto.weights.digest",
    "rto.rollout.engines": "rto.rollout.engine",
    "rto.rollout.proven": "rto.weights.accepted_version",
    "rto.sections_methods": "rto.sections.methods",
    "rto.sections_runtime": "rto.sections.runtime",
    "rto.tracking.summary": "rto.report.summary",
    "rto.training.balance": "rto.batching.balance",
    "rto.training.plan": "rto.batching.optimizer_steps",
}
"""Former name -> today's."""


class FormerNames(MetaPathFinder, Loader):
    """Gives the module of today's name, with a warning for whoever wrote the import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is now {MOVED[name]}", DeprecationWarning, stacklevel=2)
        # The import system returns what stands here after the module has been executed.
        sys.modules[name] = import_module(MOVED[name])
