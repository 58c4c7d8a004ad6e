"""Chaos: a run whose processes are killed and stopped all the time, its records checked, and what recovery costs.

    python -m couplet.studies.chaos --seed 0 --minutes 14 --out runs/studies/chaos
    python -m couplet.studies.chaos --render runs/studies/chaos/chaos.json … --page docs/reliability.md

A tiny policy is trained on a Ray cluster of two nodes on this machine. A seeded schedule kills (SIGKILL) and hangs
(SIGSTOP) every role, a node and the driver, which is started again with `--resume`. Then the run must finish by itself,
`chaos_check` reads its records, and runs that nothing happens to tell what pass rate to expect.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.data.files import write_json
from couplet.studies import cli
from couplet.studies.chaos_check import Records, checked, read_records, violations
from couplet.studies.chaos_events import KINDS, RECOVERY_SECONDS, Chaos, Event, schedule
from couplet.studies.chaos_processes import Driver, Machines, environment
from couplet.studies.chaos_report import pass_rates, render, summary_lines
from couplet.studies.machine import machine

CHAOS_SHARE = 0.65  # of the minutes; the rest is for the end and for undisturbed runs
NAME = "chaos"  # of the disturbed run
LAST_STEPS = 12  # learner steps after the last event
RANKS, ACTORS = 2, 2
SETTINGS: dict[str, Any] = {
    "steps": 1_000_000,  # the last resume sets how many there are
    "problems": {"train": "katas:rl-lists", "evaluate": "katas:heldout-lists", "limit": 60},
    "sampler": {"steps": 8, "completion_length": 32},
    "optimizer": {"lr": 3.0e-4, "schedule": "constant"},
    "replay": {"groups_per_step": 2, "completions": 4, "timeout": 15.0},
    "learner": {"engine": "torch", "ranks": RANKS, "timeout": 20.0},
    "rollout": {"actors": ACTORS, "timeout": 15.0},
    "reward": {"actors": ACTORS, "timeout": 15.0},
    "sandbox": {"cpu_seconds": 0.5, "wall_factor": 4.0, "program_factor": 4.0, "memory_mb": 256},
    "evaluation": {"every": 30, "limit": 20, "samples": 4, "ar_ness_problems": 2, "ar_ness_temperatures": [0.2]},
    "checkpoint": {"every": 6},
    "ray": {"connect_timeout": 10.0, "call_timeout": 60.0},
}
TIME_LIMITS = [
    (section, name)
    for section, tree in SETTINGS.items()
    if isinstance(tree, dict)
    for name in tree
    if "timeout" in name
]
ADAPT: dict[str, Any] = {  # a policy that finds the format now and then, so that rewards differ
    "name": "start",
    "shape": {"hidden": 48, "layers": 1, "heads": 2, "kv_heads": 2, "ffn": 96},
    "learner": {"engine": "torch"},
    "stages": [
        {
            "corpus": "katas:tune-lists", "steps": 120, "length": 64, "canvas": 32,
            "optimizer": {"lr": 5.0e-3, "weight_decay": 0.0, "grad_norm": 1.0, "schedule": "linear", "min_lr_ratio": 0.0},
        }
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a study does.

    Attributes:
        seed: of the schedule, of the victims and of the run.
        seconds: in which everything is done.
        events: most events.
        kinds: of the events, keys of `KINDS`.
        staleness: `replay.max_staleness` of the run; at 0 its losses must be those of an undisturbed run.
        start: folder of the policy; None makes one.
        references: most undisturbed runs.
        slowness: factor of every time limit, for a busy machine.
        steps: of the run; None: it is given an end after the last event.
        out: folder of everything.
    """

    seed: int
    seconds: float
    events: int
    kinds: tuple[str, ...]
    staleness: int
    start: Path | None
    references: int
    slowness: float
    steps: int | None
    out: Path

    def settings(self, name: str, address: str, start: str) -> dict[str, Any]:
        """The recipe of a run."""
        tree = {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()}
        tree |= {"name": name, "runs_dir": str(self.out / "runs"), "seed": self.seed, "model": {"path": start}}
        tree["replay"]["max_staleness"] = self.staleness
        tree["steps"] = self.steps or SETTINGS["steps"]
        tree["ray"]["address"] = address
        for section, name in TIME_LIMITS:
            tree[section][name] *= self.slowness
        return tree


def run_chaos(plan: Plan) -> dict[str, Any]:
    """Do the study; what `chaos.json` holds. RunFailed: a run did not recover, or ended with an error."""
    began = time.monotonic()
    out = plan.out
    if out.exists() and any(out.iterdir()) and not (out / f"{NAME}.yaml").is_file():
        raise UserError(f"--out {out}: it holds something else than a chaos study, which would be deleted")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    start = str(plan.start or make_start(out))
    environ = environment()
    with ExitStack() as ends:
        machines = Machines(out, environ)
        ends.callback(machines.close)

        def driver(name: str) -> Driver:
            recipe = out / f"{name}.yaml"
            recipe.write_text(yaml.safe_dump(plan.settings(name, machines.address, start)))
            made = Driver(cli.COUPLET, recipe, out / "runs" / name, environ)
            ends.callback(made.kill)
            return made

        run = driver(NAME)
        events = _disturb(plan, machines, run, began)
        steps = _finish(plan, run)
        records = read_records(run.folder)
        references: list[Records] = []
        while len(references) < plan.references:
            spent = time.monotonic() - began
            if references and spent * (1 + 0.3 / len(references)) > plan.seconds:
                break
            other = driver(f"undisturbed-{len(references)}")
            _say(f"undisturbed run {len(references) + 1} of at most {plan.references}, {steps} steps")
            other.start(f"steps={steps}")
            _wait_for_end(other, RECOVERY_SECONDS * plan.slowness)
            references.append(read_records(other.folder))
    result = {
        "seed": plan.seed,
        "machine": machine(),
        "settings": {
            "max_staleness": plan.staleness,
            "ranks": RANKS,
            "actors": ACTORS,
            "nodes": 2,
            "slowness": plan.slowness,
        },
        "seconds": round(time.monotonic() - began, 1),
        "events": [event.to_dict() for event in events],
        "checked": checked(records),
        "violations": violations(records) + _differences(plan, records, references),
        "ledger": records.summary["ledger"],
        "pass_rates": pass_rates(records, references),
    }
    write_json(out / "chaos.json", result)
    return result


def _disturb(plan: Plan, machines: Machines, run: Driver, began: float) -> list[Event]:
    """Start the run and do events to it until the time for them is over."""
    wanted = {"rollout": ACTORS, "reward": ACTORS, "learner": RANKS, "queue": 1}
    chaos = Chaos(machines, run, wanted, plan.seed, plan.slowness, "kill node" in plan.kinds)
    names = schedule(plan.seed, plan.events, plan.kinds)
    events: list[Event] = []
    _say(f"{len(names)} events in at most {CHAOS_SHARE * plan.seconds:.0f} s")
    chaos.start()
    chaos.wait_for_step(SETTINGS["checkpoint"]["every"])
    for number, name in enumerate(names, start=1):
        if time.monotonic() - began > CHAOS_SHARE * plan.seconds or run.code() is not None:
            _say(f"time is up after {len(events)} events")
            break
        event = chaos.do(name)
        events.append(event)
        _say(
            f"[{number:>3}/{len(names)}] step {event.step:>4}: {name:<36} complete after {event.replaced:5.1f} s, "
            f"next step after {event.stepped:5.1f} s"
        )
        chaos.pause()
    return events


def _finish(plan: Plan, run: Driver) -> int:
    """Set the run an end unless it has one, and wait until it is there. Returns its number of learner steps."""
    if plan.steps is None:
        run.signal(signal.SIGTERM)
        steps = run.last_step()[0] + LAST_STEPS
        _say(f"the run is to end at step {steps}")
        run.start("--resume", f"steps={steps}")
    _wait_for_end(run, RECOVERY_SECONDS * plan.slowness)
    return run.last_step()[0]


def _wait_for_end(run: Driver, limit: float) -> None:
    """`RunFailed`: the run ended with an error, or did no learner step for `limit` seconds."""
    moved, done = time.monotonic(), -1
    while (code := run.code()) is None:
        if (step := run.last_step()[0]) != done:
            moved, done = time.monotonic(), step
        if time.monotonic() - moved > limit:
            raise cli.RunFailed(f"the run did not end by itself: no learner step for {limit:.0f} s after step {done}")
        time.sleep(0.2)
    if code != 0:
        run.require_running()


def _differences(plan: Plan, records: Records, references: Sequence[Records]) -> list[str]:
    """At staleness 0: steps whose loss is not that of the undisturbed run."""
    if plan.staleness > 0 or not references:
        return []
    pairs = zip(records.rows, references[0].rows, strict=True)
    wrong = [one["step"] for one, other in pairs if one["loss"] != other["loss"]]
    return [f"step {wrong[0]} and {len(wrong) - 1} others have another loss than the undisturbed run"] if wrong else []


def make_start(out: Path) -> Path:
    """A tiny policy, in `out`."""
    recipe = out / "start.yaml"
    recipe.write_text(yaml.safe_dump(ADAPT | {"runs_dir": str(out)}))
    _say("making a tiny policy")
    cli.run_couplet(["adapt", str(recipe)], out / "start.log")
    return out / "start" / "policy"


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 if nothing was lost, 1 if something was or the run failed, 2 for a mistake in the options."""
    parser = argparse.ArgumentParser(prog="python -m couplet.studies.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=14.0, help="in which everything is done (default: 14)")
    parser.add_argument("--events", type=int, default=56, help="most events (default: 56)")
    parser.add_argument("--kinds", type=cli.words, default=tuple(KINDS), metavar="A,B,…", help="default: every kind")
    parser.add_argument("--staleness", type=int, default=2, help="at 0 the losses must be those of an undisturbed run")
    parser.add_argument("--start", type=Path, metavar="POLICY", help="default: a tiny one is made")
    parser.add_argument("--undisturbed", type=int, default=3, help="most undisturbed runs to compare with (default: 3)")
    parser.add_argument("--slowness", type=float, default=1.0, help="factor of time limits, for a busy machine")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of the run; default: it is given an end after the last event"
    )
    parser.add_argument("--out", type=Path, default=cli.OUT / "chaos", help=f"default: {cli.OUT / 'chaos'}")
    parser.add_argument("--render", type=Path, nargs="+", metavar="JSON", help="write the table of earlier studies")
    parser.add_argument("--page", type=Path, default=Path("docs/reliability.md"), help="for --render")
    args = parser.parse_args(argv)
    clean = True

    def study() -> None:
        nonlocal clean
        if args.render:
            render(args.page, [read_object(path) for path in args.render])
            return
        if unknown := [name for name in args.kinds if name not in KINDS]:
            raise UserError(f"--kinds {unknown[0]!r}: known are {', '.join(KINDS)}")
        start = None if args.start is None else cli.policy_folder(str(args.start), "--start")
        plan = Plan(
            args.seed,
            60 * args.minutes,
            args.events,
            args.kinds,
            args.staleness,
            start,
            args.undisturbed,
            args.slowness,
            args.steps,
            args.out.absolute(),
        )
        result: Mapping[str, Any] = run_chaos(plan)
        clean = not result["violations"] and result["pass_rates"]["within"]
        _say("\n".join([*summary_lines(result), f"written to {plan.out / 'chaos.json'}"]))

    return cli.exit_code(study) or int(not clean)


if __name__ == "__main__":
    sys.exit(main())
