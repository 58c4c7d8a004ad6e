"""Packing, checking and swapping weights, in GB/s beside a plain copy of the same bytes in memory."""

from __future__ import annotations

import statistics

import numpy as np

from benchmarks.measure import interleaved
from benchmarks.plain import random_policy
from couplet.model.weights import pack, unpack_into

WHAT = "GB per CPU second of each stage of a weight broadcast, interleaved with a copy in memory, one process"
LEFT_OUT = (
    "the object store and the network (docs/clusters.md), GPUs, and time that other threads of the checksums overlap"
)


def measure(toy: bool = False) -> dict[str, object]:
    """Each stage on one policy."""
    policy = random_policy("toy" if toy else "mid", 600 if toy else 65_536)
    weights = dict(policy.named_parameters())
    manifest, buckets = pack(weights.items(), 1)
    copies = [bucket.copy() for bucket in buckets]  # touched, so that no page is new
    same = manifest.checksums
    runs = {
        "memcpy": lambda: [np.copyto(copy, bucket) for copy, bucket in zip(copies, buckets, strict=True)],
        "pack": lambda: pack(weights.items(), 1),
        "swap, verified": lambda: unpack_into(policy, manifest, buckets),
        "swap, not verified": lambda: unpack_into(policy, manifest, buckets, verify=False),
    }
    seconds = interleaved(runs, 1 if toy else None)
    assert pack(weights.items(), 1)[0].checksums == same
    rates = {name: manifest.nbytes / statistics.median(times) / 1e9 for name, times in seconds.items()}
    return {
        "gigabytes": round(manifest.nbytes / 1e9, 3),
        "gb_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "seconds_of_15_gb": {name: round(15.23 / rate, 1) for name, rate in rates.items()},
    }
