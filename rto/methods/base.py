"""What most methods have in common; a method overrides what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from rto.protocols import Output, RewardScaling
from rto.sections.ranges import check_tree
from rto.types import Role


class PlainMethod:
    """Reads no score, needs nothing but log-probs, looks at each row alone, never adapts.

    A dataclass that extends it is refused with a setting outside of its range.
    """

    def __post_init__(self) -> None:
        check_tree(self)

    @property
    def roles(self) -> frozenset[Role]:
        return frozenset()

    @property
    def outputs(self) -> frozenset[Output]:
        return frozenset()

    @property
    def whole_groups(self) -> bool:
        return False

    @property
    def min_responses(self) -> int:
        return 1

    @property
    def reward_scaling(self) -> RewardScaling:
        return "none"

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self
