"""The checker of the chaos study accepts what a correct ledger leaves behind, and finds what a broken one loses."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest

from couplet.configs.load import from_dict, to_dict
from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.replay.ledger import Ledger
from couplet.replay.record import Record, State
from couplet.replay.schedule import ProblemSchedule, Schedule
from couplet.studies.chaos_check import checked, read_records, violations
from couplet.training.cluster import Batch
from couplet.training.replay_metrics import ledger_metrics
from couplet.training.run_folder import RunFolder

P, G, STEPS, PROBLEMS = 2, 4, 20, 7


class Local:
    """The accounting of a run in this process: ledger, record and run folder are real, work is instantaneous.

    Holders die, and the queue is rebuilt from the record now and then, as the seed says.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, seed: int) -> None:
        self.folder, self.config, self.random = folder, config, random.Random(seed)
        problems = tuple(Problem(f"p{index}", "") for index in range(PROBLEMS))
        prompts = PromptSet(problems, (np.zeros(1, np.int32),) * PROBLEMS, 0, 0)
        self.schedule = Schedule(prompts, G, config.seed)
        self.record, self.version = Record(), 0
        self.ledger = Ledger(config.replay, self.record, steps=config.steps)
        self.ready: dict[int, ScoredGroup] = {}

    def run(self) -> None:
        for _ in range(40 * STEPS):  # a run that loses a group would never end
            if self.version == STEPS:
                self.folder.write_json("summary.json", self.summary())
                return
            self.work()
            if (numbers := self.ledger.lease(P, 0.0)) is not None:
                self.step(numbers)

    def work(self) -> None:
        for number, attempt in self.ledger.issue(3, 0.0):
            if self.random.random() < 0.2:
                self.ledger.lose(number, attempt)
                continue
            version = self.ledger.published
            self.ledger.generated(number, attempt, version, 0.0)
            self.ledger.scoring(number, attempt, 0.0)
            scored = self.group(number, attempt, version)
            if self.ledger.ready(number, attempt, 0.0, valid=G, zero_signal=scored.zero_signal) is State.READY:
                self.ready[number] = scored

    def step(self, numbers: list[int]) -> None:
        batch = Batch(tuple(numbers), tuple(self.ready.pop(n) for n in numbers), self.ledger.unreported())
        metrics = ledger_metrics(self.ledger)
        self.version += 1
        finals = batch.finals(self.config.objective)
        self.record.add(finals)
        self.ledger.finish(finals, self.version)
        self.record.follow(self.ledger.cursor())
        self.ledger.publish(self.version)
        self.folder.log_metrics(self.version, metrics)
        self.folder.log_trajectories(self.version, batch.groups)
        if self.random.random() < 0.2:
            self.ledger = Ledger(self.config.replay, self.record, self.version, self.config.steps)
            self.ready = {}

    def group(self, number: int, attempt: int, version: int) -> ScoredGroup:
        request = self.schedule.request(number, attempt)
        group = PromptGroup(
            request.group_id, attempt, version, request.problem_id, request.prompt_tokens, np.zeros((G, 2), np.int32),
            np.zeros((G, 2), np.int16), np.ones((G, 2), bool), ("",) * G, request.seeds_G, request.group_seed, None,
        )  # fmt: skip
        rewards = [0.0] * G if number % 5 == 0 else range(G)
        return ScoredGroup(group, tuple(Verdict(Outcome.PASSED, float(reward)) for reward in rewards))

    def summary(self) -> dict:
        return {
            "steps": self.version,
            "ledger": self.ledger.totals(),
            "problems": {"train": {"kept": PROBLEMS, "dropped": 0, "truncated": 0}},
            "config": to_dict(self.config),
        }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(seed)`: the records of a run whose holders die, read from its folder."""

    monkeypatch.setattr(RunFolder, "_to_tensorboard", lambda self, row: None)
    monkeypatch.setattr("couplet.training.run_folder.code_version", dict)

    def go(seed=0, staleness=2):
        tree = {"name": "local", "runs_dir": str(tmp_path), "seed": 3, "steps": STEPS}
        tree["replay"] = {"groups_per_step": P, "completions": G, "max_staleness": staleness}
        config = from_dict(RunConfig, tree)
        folder = RunFolder.create(config)
        Local(folder, config, seed).run()
        folder.close()
        return read_records(folder.root)

    return go


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("staleness", [0, 2])
def test_a_run_whose_holders_die_is_clean(run, seed, staleness):
    records = run(seed, staleness)
    assert violations(records) == []
    assert checked(records)["reissued"] >= 3 and checked(records)["completions"] == STEPS * P * G


def found(records, text):
    lines = violations(records)
    assert any(text in line for line in lines), lines
    return lines


# --- a broken ledger, by its code -------------------------------------------------------------------------------------


def test_a_dropped_reissue_is_found(run, monkeypatch):
    reissue = Ledger._reissue

    def forgetful(self, entry):
        reissue(self, entry)
        if entry.number == 11:
            self._pending.remove(entry.number)
            del self.entries[entry.number]

    monkeypatch.setattr(Ledger, "_reissue", forgetful)
    for seed in range(10):  # one in which group 11 is lost
        records = run(seed)
        if violations(records):
            break
    found(records, "")


def test_a_reissue_that_is_never_issued_leaves_a_run_that_does_not_end(run, monkeypatch):
    reissue = Ledger._reissue
    monkeypatch.setattr(
        Ledger, "_reissue", lambda self, entry: reissue(self, entry) or self._pending.remove(entry.number)
    )
    found(run(), "the run has not ended")


def test_a_doubled_finish_is_found(run, monkeypatch):
    finish = Ledger._finish

    def twice(self, number, state):
        finish(self, number, state)
        if number == 9:
            self.record.totals[state.value] += 1
        return state

    monkeypatch.setattr(Ledger, "_finish", twice)
    assert violations(run())


def test_a_group_that_is_leased_twice_is_found(run, monkeypatch):
    lease = Ledger.lease

    def again(self, count, now):
        numbers = lease(self, count, now)
        if numbers and self.version == 5:
            self._finish(numbers[1], State.TRAINED)
            numbers[1] = numbers[0]
        return numbers

    monkeypatch.setattr(Ledger, "lease", again)
    monkeypatch.setattr(Local, "step", _step_with_copies)
    assert violations(run())


def _step_with_copies(self, numbers):
    kept = {number: self.ready[number] for number in numbers}
    self.ready = {number: scored for number, scored in self.ready.items() if number not in kept}
    batch = Batch(tuple(numbers), tuple(kept[number] for number in numbers))
    metrics = ledger_metrics(self.ledger)
    self.version += 1
    finals = batch.finals(self.config.objective)
    self.ledger.finish(finals, self.version)
    self.ledger.publish(self.version)
    self.folder.log_metrics(self.version, metrics)
    self.folder.log_trajectories(self.version, batch.groups)


def test_a_stale_group_is_found(run, monkeypatch):
    monkeypatch.setattr(Local, "group", _made_by_the_first_version)
    found(run(), "steps old, at most 2 are allowed")


def _made_by_the_first_version(self, number, attempt, version, make=Local.group):
    return make(self, number, attempt, 0)


# --- broken records ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clean(run):
    records = run()
    return replace(records, rows=copy.deepcopy(records.rows), summary=copy.deepcopy(records.summary))


@pytest.mark.parametrize("name", ["ledger_issued_total", "ledger_in_flight", "ledger_trained", "ledger_ready"])
def test_a_count_that_is_off_by_one_is_found(clean, name):
    clean.rows[12][name] += 1
    found(clean, "step 13: ")


def test_a_missing_and_a_repeated_row_are_found(clean):
    found(replace(clean, rows=[*clean.rows[:4], *clean.rows[5:]]), "row 5 is of step 6")
    found(replace(clean, rows=[*clean.rows[:4], clean.rows[3], *clean.rows[4:]]), "row 5 is of step 4")


def of_group(records, place):
    first = records.completions[place * G]
    return [
        row for row in records.completions if (row["epoch"], row["problem_id"]) == (first["epoch"], first["problem_id"])
    ]


def test_a_group_that_is_missing_or_there_twice_is_found(clean):
    gone = of_group(clean, 7)
    found(replace(clean, completions=[row for row in clean.completions if row not in gone]), "were skipped")
    again = [*clean.completions, *(row | {"step": row["step"] + 1} for row in gone)]
    found(replace(clean, completions=again), "in 2 steps")
    found(replace(clean, completions=[*clean.completions, *gone]), "8 completions, not 4")


def test_mixed_weights_in_a_group_are_found(clean):
    changed = [dict(row) for row in clean.completions]
    one = next(row for row in changed if row["version"] > 2)
    one["version"] -= 1
    found(replace(clean, completions=changed), "made by several (version, attempt)")


def test_a_seed_of_another_group_is_found(clean):
    changed = [dict(row) for row in clean.completions]
    changed[5]["seed"] += 1
    found(replace(clean, completions=changed), "is not that of any group that was issued")


@pytest.mark.parametrize("state", ["trained", "filtered"])
def test_totals_that_are_not_those_of_the_trajectories_are_found(clean, state):
    clean.summary["ledger"][state] += 1
    clean.summary["ledger"]["issued"] += 1
    assert violations(clean)


def test_the_numbers_are_those_of_the_schedule():
    schedule = ProblemSchedule(PROBLEMS, 3)
    assert {schedule.group_id(number).problem for number in range(PROBLEMS)} == set(range(PROBLEMS))
