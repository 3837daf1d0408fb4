"""Seeds of requests, one each, so that a sample does not depend on its batch."""

from __future__ import annotations

import hashlib
import struct


def request_seed(run_seed: int, iteration: int, prompt_id: int, sample_index: int) -> int:
    """A seed in [0, 2**63) that is the same on every machine, engine and resumed run."""
    key = struct.pack("<4q", run_seed, iteration, prompt_id, sample_index)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
