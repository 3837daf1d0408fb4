"""Frozen models that score a batch: reference, DPO models, reward models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from rto.batching.microbatch import plan_microbatches
from rto.errors import RewardProtocolError, UserError
from rto.models.families import load_policy
from rto.models.heads import SequenceReward
from rto.models.load import load_scalar_model, reward_constants
from rto.models.policy import Policy
from rto.scoring.offload import Offloaded
from rto.types import Role, TokenBatch

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class FrozenOptions:
    """How frozen models are held and run.

    ``offload`` keeps them in host memory and lends one at a time to ``device``; ``max_tokens`` is
    the budget of one forward, padding, where the model reads any, included. ``max_len`` is the
    longest row (``rto.models.rope``).
    """

    dtype: torch.dtype
    device: torch.device
    attn_implementation: str = "sdpa"
    max_tokens: int = 16384
    max_len: int | None = None
    temperature: float = 1.0
    offload: bool = False


class FrozenScorer:
    """Roles that name one path share one model."""

    def __init__(
        self,
        roles: Mapping[Role, str],
        reward_models: Sequence[str],
        options: FrozenOptions,
    ) -> None:
        self._options = options
        self._offloaded: dict[nn.Module, Offloaded] = {}
        self._paths = dict(roles)
        self._policies = {path: self._policy(path) for path in dict.fromkeys(roles.values())}
        self._reward_paths = list(reward_models)
        self._rewards = {path: self._reward(path) for path in dict.fromkeys(reward_models)}

    @property
    def num_models(self) -> int:
        return len(self._policies) + len(self._rewards)

    def score(self, tokens: TokenBatch, roles: frozenset[Role]) -> dict[Role, Tensor]:
        """Log-probs fp32 [B, T] of each role, on the CPU."""
        missing = sorted(roles - self._paths.keys())
        if missing:
            raise ValueError(f"no frozen model for role {', '.join(missing)}")
        logprobs: dict[str, Tensor] = {}
        for path in dict.fromkeys(self._paths[role] for role in sorted(roles)):
            logprobs[path] = self._run(self._policies[path], self._logprobs, tokens)
            if not bool(logprobs[path].isfinite().all()):
                raise UserError(
                    f"{path}: log-probs are not finite: check the checkpoint, or set "
                    "ds.param_dtype to fp32"
                )
        return {role: logprobs[self._paths[role]] for role in roles}

    def rewards(self, tokens: TokenBatch) -> Tensor:
        """Raw scores of each reward model, fp32 [num_models, B], on the CPU."""
        scores = {
            path: self._run(model, nn.Module.__call__, tokens)
            for path, model in self._rewards.items()
        }
        for path, score in scores.items():
            if not bool(score.isfinite().all()):
                row = int((~score.isfinite()).nonzero()[0])
                raise RewardProtocolError(f"{path}: the score of row {row} is {float(score[row])}")
        return torch.stack([scores[path] for path in self._reward_paths])

    def reward_constants(self) -> list[tuple[float, float]]:
        """(mean, std) of each reward model; an error where a config.json has none."""
        return [
            reward_constants(self._rewards[path].model.config, path=path)
            for path in self._reward_paths
        ]

    def _logprobs(self, model: nn.Module, tokens: TokenBatch) -> Tensor:
        return model(tokens, temperature=self._options.temperature).logprobs

    def _run(
        self,
        model: Policy | SequenceReward,
        forward: Callable[[nn.Module, TokenBatch], Tensor],
        tokens: TokenBatch,
    ) -> Tensor:
        """``forward`` over micro-batches, put back in the order of the rows."""
        plan = plan_microbatches(
            tokens.lengths.tolist(),
            max_tokens=self._options.max_tokens,
            packs=model.packs,
            groups=tokens.group.tolist(),
        )
        with self._on_device(model), torch.inference_mode():
            parts = [
                forward(model, tokens.take(rows).to(self._options.device)).cpu() for rows in plan
            ]
        place = torch.tensor([row for rows in plan for row in rows])
        return torch.cat(parts)[place.argsort()]

    def _on_device(self, model: nn.Module) -> AbstractContextManager[None]:
        held = self._offloaded.get(model)
        return contextlib.nullcontext() if held is None else held.on_device()

    def _policy(self, path: str) -> Policy:
        policy = load_policy(
            path,
            dtype=self._options.dtype,
            attn_implementation=self._options.attn_implementation,
            max_len=self._options.max_len,
            device=self._options.device,
        )
        return self._frozen(policy)

    def _reward(self, path: str) -> SequenceReward:
        model = load_scalar_model(
            path,
            dtype=self._options.dtype,
            attn_implementation=self._options.attn_implementation,
            max_len=self._options.max_len,
            device=self._options.device,
            new_head=False,
        )
        return self._frozen(SequenceReward(model))

    def _frozen(self, model: Model) -> Model:
        model.eval().requires_grad_(False)
        if self._options.offload:
            self._offloaded[model] = Offloaded(model, self._options.device)
        return model
