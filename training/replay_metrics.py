"""Metrics of what passes through the replay queue. Plain counting, no Ray."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from couplet.data.trajectory import PromptGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.replay.ledger import Ledger

WINDOW = 60.0  # seconds over which rates are taken
FAULTS = ("spawn", "zygote")  # classes of sandbox faults, reported also while their count is 0


def ledger_metrics(ledger: Ledger) -> dict[str, float]:
    """Groups per ledger state, and the totals: groups ever issued, in flight, issued again, dropped as stale."""
    totals = ledger.totals()
    return {f"ledger_{state}": float(count) for state, count in ledger.states().items()} | {
        "ledger_issued_total": float(totals["issued"]),
        "ledger_in_flight": float(totals["in_flight"]),
        "ledger_reissued": float(totals["reissued"]),
        "ledger_stale_dropped": float(totals["stale_dropped"]),
    }


class Telemetry:
    """Counts since the last report, and rates over the last minute. Times are seconds of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self.faults: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
        self._broadcast = self._swap = 0.0  # the slowest of each
        self._started = now
        self._events: deque[tuple[float, int, int, int]] = deque()  # time, groups, tokens, completions judged
        self._begin(now)

    def generated(self, group: PromptGroup, now: float) -> None:
        """A group arrived from a rollout actor."""
        metrics = group.metrics or {}
        self._generate_seconds += metrics.get("seconds", 0.0)
        self._swap = max(self._swap, metrics.get("swap_seconds", 0.0))
        self._tokens += group.tokens_GC.size
        self._completions += group.completions
        self._events.append((now, 1, group.tokens_GC.size, 0))

    def pushed(self, seconds: float, swap: float) -> None:
        """An idle rollout actor acknowledged new weights after `seconds`, `swap` of them for the swap itself."""
        self._broadcast, self._swap = max(self._broadcast, seconds), max(self._swap, swap)

    def judged(self, verdicts: Sequence[Verdict], seconds: float, now: float) -> None:
        """A reward actor answered after `seconds` of work."""
        self._reward_seconds += seconds
        self.faults.update(v.reason or "unknown" for v in verdicts if v.outcome is Outcome.INFRA_ERROR)
        self._events.append((now, 0, 0, len(verdicts)))

    def settled(self, row_length: int, zero_signal: bool) -> None:
        """The verdicts of a group are complete; its forward passes had `row_length` positions per completion.

        Every group has equally many forward passes of as many rows, so its rollout FLOPs are proportional to
        `row_length`, but for the part of attention that grows with the square.
        """
        self._settled[zero_signal] += row_length

    def taken(self, waited: float) -> None:
        """A reward actor took a group for the first time, `waited` seconds after it was generated."""
        self._queued.append(waited)

    def ready(self, waited: float) -> None:
        """A group became ready, `waited` seconds after it was generated."""
        self._waits.append(waited)

    def rates(self, now: float) -> dict[str, float]:
        """Groups, tokens and judged completions per second over the last minute."""
        while self._events and self._events[0][0] < now - WINDOW:
            self._events.popleft()
        span = max(min(WINDOW, now - self._started), 1e-9)
        groups, tokens, judged = (sum(event[k] for event in self._events) for k in (1, 2, 3))
        return {
            "groups_per_second": groups / span,
            "tokens_per_second": tokens / span,
            "judged_per_second": judged / span,
        }

    def report(self, now: float) -> dict[str, float]:
        """Metrics since the last report."""
        elapsed = max(now - self._since, 1e-9)
        waits = sorted(self._waits) or [0.0]
        metrics = {
            "generate_seconds": self._generate_seconds,
            "reward_seconds": self._reward_seconds,
            "tokens_per_second": self._tokens / elapsed,
            "rollouts_per_second": self._completions / elapsed,
            "reward_queue_wait": sum(self._queued) / max(1, len(self._queued)),
            "reward_wait_p50": waits[len(waits) // 2],
            "reward_wait_p95": waits[min(len(waits) - 1, int(0.95 * len(waits)))],
            "zero_signal_flops_share": self._settled[True] / max(1, self._settled.total()),
            "weight_broadcast_seconds": self._broadcast,
            "weight_swap_seconds": self._swap,
        }
        metrics |= {f"sandbox_faults_{kind}": float(count) for kind, count in self.faults.items()}
        self._begin(now)
        return metrics

    def _begin(self, now: float) -> None:
        self._since = now
        self._generate_seconds = self._reward_seconds = 0.0
        self._tokens = self._completions = 0
        self._broadcast = self._swap = 0.0
        self._settled: Counter[bool] = Counter()
        self._queued: list[float] = []
        self._waits: list[float] = []
