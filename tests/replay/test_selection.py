"""Which problems are asked: those that can teach more often, none never, the same after a resume."""

from collections import Counter
from itertools import pairwise

import pytest

from couplet.configs.schema import ReplayConfig
from couplet.replay.ledger import Ledger
from couplet.replay.record import Record, State
from couplet.replay.schedule import ProblemSchedule
from couplet.replay.selection import PassRate, Selection, signal_probability

PROBLEMS, COMPLETIONS, FLOOR = 12, 8, 0.2
ORDER = ProblemSchedule(PROBLEMS, seed=3)
SELECTION = Selection(ORDER, COMPLETIONS, FLOOR)


def solved_of(problem):
    """Four problems are always solved, four never, four half the time."""
    return (8, 0, 4)[problem % 3]


class Run:
    """Groups issued, judged and trained one step after the other."""

    def __init__(self, selection=SELECTION, record=None, version=0):
        self.ledger = Ledger(ReplayConfig(groups_per_step=4, max_staleness=0), record, version, selection=selection)
        self.asked = []

    def steps(self, count):
        for _ in range(count):
            version = self.ledger.version
            numbers = [number for number, _ in self.ledger.issue(4, 0.0)]
            for number, attempt in [(n, self.ledger.entries[n].attempt) for n in numbers]:
                epoch, problem, _ = ORDER.group_id(self.ledger.place(number))
                self.asked.append((epoch, problem))
                self.ledger.generated(number, attempt, version, 0.0)
                self.ledger.scoring(number, attempt, 0.0)
                solved = solved_of(problem)
                self.ledger.ready(number, attempt, 0.0, valid=8, zero_signal=solved != 4, solved=solved)
            assert self.ledger.lease(4, 0.0) == numbers
            self.ledger.finish(dict.fromkeys(numbers, State.TRAINED), version + 1)
            self.ledger.publish(version + 1)
            self.ledger.check()
        return self


def test_the_probability_of_a_signal_by_hand():
    assert signal_probability(None, 2) == pytest.approx(0.5)
    assert signal_probability(PassRate(8.0, 8.0, 0), 2) == pytest.approx(1 - 0.81 - 0.01)
    rate = PassRate(8.0, 8.0, 0).follow(0, 8, 5)
    assert rate == PassRate(4.0, 12.0, 5)


def test_problems_that_teach_are_asked_more_often_and_none_starves():
    asked = Run().steps(150).asked
    counts, epochs = Counter(problem for _, problem in asked), asked[-1][0]
    teaching = [counts[p] for p in range(PROBLEMS) if solved_of(p) == 4]
    others = [counts[p] for p in range(PROBLEMS) if solved_of(p) != 4]
    assert min(teaching) > 1.5 * max(others) and min(teaching) >= 0.9 * epochs
    for problem in range(PROBLEMS):
        visits = [epoch for epoch, p in asked if p == problem]
        assert max(b - a for a, b in pairwise(visits)) <= 1 / FLOOR


def test_the_first_epoch_asks_every_problem_and_nothing_is_asked_twice_in_an_epoch():
    asked = Run().steps(60).asked
    assert {problem for epoch, problem in asked if epoch == 0} == set(range(PROBLEMS))
    assert len(set(asked)) == len(asked)


def test_a_resumed_run_asks_what_an_uninterrupted_one_asks():
    whole = Run().steps(40).asked
    first = Run().steps(15)
    record = Record.from_dict(first.ledger.record.to_dict())
    rest = Run(record=record, version=15).steps(25)
    assert first.asked + rest.asked == whole


def test_a_group_that_is_issued_again_keeps_its_problem_through_the_drivers_record():
    run = Run().steps(12)
    numbers = [number for number, _ in run.ledger.issue(4, 0.0)]
    places = [run.ledger.place(number) for number in numbers]
    assert places != numbers  # something was skipped by now
    driver = Record()
    driver.follow(run.ledger.cursor())
    again = Ledger(run.ledger.config, Record.from_dict(driver.to_dict()), 12, selection=run.ledger.selection)
    assert [again.place(number) for number in numbers] == places


def test_without_selection_the_place_of_a_group_is_its_number():
    run = Run(selection=None).steps(6)
    assert run.asked == [ORDER.group_id(number)[:2] for number in range(24)]
    assert run.ledger.record.rates == {} and run.ledger.record.places == {}
