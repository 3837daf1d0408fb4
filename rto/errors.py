"""Errors a user can cause, and the exit codes the command line gives them.

Exit codes follow sysexits.h where it has a fitting number.
"""

from __future__ import annotations


class UserError(ValueError):
    """A setting, a file or a row is wrong: one line with the name, the value and the remedy."""

    exit_code = 2


class ProofError(RuntimeError):
    """A check the run depends on failed: weight sync, self-check, tokenizer equality."""

    exit_code = 70


class TrainingDiverged(RuntimeError):
    """A loss or a gradient norm is not finite; nothing was applied to the weights."""

    exit_code = 70


class RewardProtocolError(RuntimeError):
    """A reward source answered with something other than one finite number per response."""

    exit_code = 76


class JudgeError(RuntimeError):
    """A judge's endpoint refused a request, or answered none of several attempts."""

    exit_code = 76


class ActorLost(RuntimeError):
    """A Ray actor died; the message names it and the last checkpoint."""

    exit_code = 75
