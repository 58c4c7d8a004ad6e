"""Seeds as pure functions of what they are for; nothing in the project seeds a global generator."""

from __future__ import annotations

import hashlib

MAX_SEED = 2**63 - 1


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for `purpose` at `indices` (epoch, problem, completion, inner update, ...), from a parent seed.

    The same arguments give the same seed on every machine and in every process.
    """
    text = ":".join((str(seed), purpose, *map(str, indices)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & MAX_SEED


def mask_seed(seed: int, update: int) -> int:
    """Seed of the masks of inner update `update` (1-based, as in the paper) from a trajectory's or a group's seed.

    Rollout workers and the learner must draw the same masks: the ratio to the behaviour estimate depends on it.
    """
    return derive_seed(seed, "mask", update)
