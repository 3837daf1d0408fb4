from __future__ import annotations

import hashlib
import itertools

from rto.rollout.seeds import request_seed


def test_seed_is_blake2b_of_four_little_endian_integers():
    key = b"".join(n.to_bytes(8, "little") for n in (42, 3, 7, 1))
    first_eight_bytes = hashlib.blake2b(key, digest_size=8).digest()
    assert request_seed(42, 3, 7, 1) == int.from_bytes(first_eight_bytes, "little") // 2


def test_every_part_of_the_key_counts_and_none_can_stand_for_another():
    seeds = {request_seed(*key) for key in itertools.product(range(6), repeat=4)}
    assert len(seeds) == 6**4
    assert all(0 <= seed < 2**63 for seed in seeds)
