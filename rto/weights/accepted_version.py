"""The policy version that an engine may sample from: none after a change of its weights, until the
new weights are verified."""

from __future__ import annotations

from rto.errors import ProofError


class ProvenVersion:
    """The state of an engine's weights: changed, receipt read, accepted as a version."""

    def __init__(self) -> None:
        self._accepted: int | None = None
        self._receipt_due = False

    def weights_change(self) -> None:
        self._accepted, self._receipt_due = None, True

    def receipt_read(self) -> None:
        self._receipt_due = False

    def accept(self, version: int) -> None:
        """Accept the weights held now as policy ``version``; the caller has verified them.

        Raises:
            ProofError: nobody has looked at the receipt of the last update.
        """
        if self._receipt_due:
            raise ProofError(f"version {version} cannot be accepted before its weights are proven")
        self._accepted = version

    def holds(self, version: int) -> bool:
        """Whether the weights accepted as ``version`` are here still."""
        return self._accepted == version

    def require(self, version: int) -> None:
        """
        Raises:
            ProofError: the engine does not hold ``version``.
        """
        if not self.holds(version):
            held = "no proven weights" if self._accepted is None else f"version {self._accepted}"
            raise ProofError(f"rollout asked for policy version {version}, engine has {held}")
