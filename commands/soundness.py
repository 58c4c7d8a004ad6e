"""Problems whose tests cannot be trusted: found by `prepare`, and at the start of a run among those it has not checked."""

from __future__ import annotations

from collections.abc import Sequence

from couplet.commands.display import Display
from couplet.configs.schema import RewardConfig, RunConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import GENERATORS, load_problems
from couplet.evaluation.soundness import unsound_problems
from couplet.reward.worker import RewardWorker
from couplet.training.run_folder import RunFolder

RECORD = "unsound.json"
MOST_CHECKED = 5_000  # problems that a run checks at its start, on the driver's machine: some minutes


def find_unsound(
    problems: Sequence[Problem],
    reward: RewardConfig | None = None,
    sandbox: SandboxConfig | None = None,
    display: Display | None = None,
) -> dict[str, str]:
    """Why the tests of a problem cannot be trusted, by id; runs programs that compute nothing."""
    display = display or Display()
    with (
        RewardWorker(reward or RewardConfig(), sandbox or SandboxConfig()) as worker,
        display.bar("checking the tests", len(problems)) as bar,
    ):
        return unsound_problems(problems, worker.judge, bar.update)


def without_unsound(config: RunConfig, folder: RunFolder, display: Display) -> RunConfig:
    """`config` with the unsound problems of its training set excluded; they are named in the run folder.

    Generated problems and those that `prepare` has checked are not checked again; of the others the first `MOST_CHECKED`
    are. A resumed run leaves out what it left out before, even if that was nothing.
    """
    problems = config.problems
    if problems.keep_unsound:
        return config
    if (folder.root / RECORD).is_file():
        found = folder.read_json(RECORD)
    elif any(folder.checkpoints.glob("step-*")):
        found = {}  # it has trained on all of them, and groups are numbered by them
    else:
        unchecked = _unchecked(config)
        checked = unchecked[:MOST_CHECKED]
        if unchecked:
            display.say(
                f"  checking the tests of {len(checked):,} of {len(unchecked):,} training problems with programs that compute "
                "nothing; `prepare` checks all of a set, once, and marks it"
            )
        found = find_unsound(checked, config.reward, config.sandbox, display) if checked else {}
        folder.write_json(RECORD, found)
    if not found:
        return config
    name, reason = next(iter(found.items()))
    display.say(
        f"  {len(found)} training problems left out, whose tests cannot be trusted ({RECORD}; first {name}: {reason}); "
        "problems.keep_unsound=true keeps them"
    )
    return config.replace(problems=problems.replace(exclude=(*problems.exclude, *found)))


def _unchecked(config: RunConfig) -> list[Problem]:
    problems = config.problems
    if problems.train.partition(":")[0] in GENERATORS:
        return []
    loaded = load_problems(problems.train, seed=problems.seed, limit=problems.limit)
    return [p for p in loaded if not p.metadata.get("checked") and p.problem_id not in problems.exclude]
