"""Laws of the replay ledger: identity, credits, staleness, order, idempotence, re-issue."""

import random

import pytest

from couplet.configs.schema import ReplayConfig
from couplet.replay.ledger import Ledger
from couplet.replay.record import FINAL, Record, State
from couplet.replay.schedule import ProblemSchedule


def config(**changes):
    return ReplayConfig(**{"groups_per_step": 2, "completions": 4, "max_staleness": 1, "max_attempts": 4, **changes})


def make_ready(ledger, number, attempt, version, valid=4, zero_signal=False):
    assert ledger.generated(number, attempt, version, 0.0)
    assert ledger.scoring(number, attempt, 0.0)
    return ledger.ready(number, attempt, 0.0, valid=valid, zero_signal=zero_signal)


def test_credits_admit_staleness_plus_one_steps():
    ledger = Ledger(config())
    assert ledger.issue(100, 0.0) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert ledger.capacity() == 0
    ledger.publish(1)
    assert ledger.capacity() == 2


def test_lease_needs_enough_ready_groups_and_comes_in_order_of_arrival():
    ledger = Ledger(config())
    ledger.issue(4, 0.0)
    make_ready(ledger, 3, 0, 0)
    assert ledger.lease(2, 0.0) is None
    make_ready(ledger, 1, 0, 0)
    assert ledger.lease(2, 0.0) == [3, 1]


def test_synchronous_lease_comes_in_issue_order():
    ledger = Ledger(config(max_staleness=0))
    assert ledger.issue(9, 0.0) == [(0, 0), (1, 0)]
    make_ready(ledger, 1, 0, 0)
    make_ready(ledger, 0, 0, 0)
    assert ledger.lease(2, 0.0) == [0, 1]


def test_too_old_groups_are_dropped_and_issued_again_as_the_same_group():
    ledger = Ledger(config())
    ledger.issue(4, 0.0)
    for number in range(4):
        make_ready(ledger, number, 0, 0)
    ledger.publish(2)
    assert ledger.lease(2, 0.0) is None
    assert ledger.totals()["stale_dropped"] == 4
    assert ledger.issue(4, 0.0) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert ledger.totals()["issued"] == 4
    ledger.check()


def test_results_of_an_older_attempt_are_refused():
    ledger = Ledger(config())
    ledger.issue(1, 0.0)
    assert ledger.lose(0, 0)
    assert not ledger.generated(0, 0, 0, 0.0)
    assert ledger.lose(0, 0) is None
    assert ledger.issue(1, 0.0) == [(0, 1)]
    assert make_ready(ledger, 0, 1, 0) is State.READY
    assert ledger.ready(0, 1, 0.0, valid=4, zero_signal=False) is None


def test_a_group_without_a_baseline_is_quarantined_and_its_credit_comes_back():
    ledger = Ledger(config())
    ledger.issue(4, 0.0)
    assert make_ready(ledger, 0, 0, 0, valid=1) is State.QUARANTINED
    assert ledger.issue(4, 0.0) == [(4, 0)]
    assert ledger.unreported() == {0: State.QUARANTINED}
    ledger.finish(ledger.unreported(), 0)
    assert ledger.unreported() == {}
    ledger.check()


@pytest.mark.parametrize("refill, expected", [(True, State.FILTERED), (False, State.READY)])
def test_zero_signal_groups_give_their_credit_back_only_with_refill(refill, expected):
    ledger = Ledger(config(refill=refill))
    ledger.issue(4, 0.0)
    assert make_ready(ledger, 0, 0, 0, zero_signal=True) is expected
    assert ledger.capacity() == (1 if refill else 0)


def test_a_filtered_group_counts_towards_its_step_without_refill():
    ledger = Ledger(config(max_staleness=0))
    ledger.issue(2, 0.0)
    for number in (0, 1):
        make_ready(ledger, number, 0, 0)
    assert ledger.lease(2, 0.0) == [0, 1]
    ledger.finish({0: State.TRAINED, 1: State.FILTERED}, version=1)
    assert ledger.capacity() == 0
    ledger.publish(1)
    assert ledger.issue(9, 0.0) == [(2, 0), (3, 0)]


def test_attempts_run_out_into_quarantine():
    ledger = Ledger(config(max_attempts=2))
    ledger.issue(1, 0.0)
    assert ledger.lose(0, 0)
    assert ledger.issue(1, 0.0) == [(0, 1)]
    assert ledger.lose(0, 1)
    assert ledger.unreported() == {0: State.QUARANTINED}


def test_a_group_that_kills_its_holder_takes_no_other_into_quarantine():
    ledger = Ledger(config(max_attempts=3))
    while orders := ledger.issue(4, 0.0):
        for number, attempt in orders:
            if (2, attempt) in orders:
                ledger.lose(number, attempt)
            else:
                make_ready(ledger, number, attempt, 0)
    assert ledger.unreported() == {2: State.QUARANTINED}
    assert ledger.totals()["issued"] == 5 and ledger.states()["ready"] == 4


def test_a_stale_group_keeps_its_chances_and_a_blameless_loss_costs_none():
    ledger = Ledger(config(max_attempts=2, max_staleness=0))
    ledger.issue(1, 0.0)
    for version in (1, 2, 3):
        make_ready(ledger, 0, version - 1, version - 1)
        ledger.publish(version)
        assert ledger.lease(1, 0.0) is None
        assert ledger.issue(1, 0.0) == [(0, version)]
    assert ledger.lose(0, 3, counted=False)
    assert ledger.lose(0, 4)
    assert ledger.unreported() == {}
    assert ledger.lose(0, 5)
    assert ledger.unreported() == {0: State.QUARANTINED}


def test_leased_groups_that_could_not_be_fetched_are_issued_again():
    ledger = Ledger(config())
    ledger.issue(2, 0.0)
    for number in (0, 1):
        make_ready(ledger, number, 0, 0)
    assert ledger.lease(2, 0.0) == [0, 1]
    ledger.give_back([1, 7])
    assert ledger.issue(2, 0.0)[0] == (1, 1)
    assert ledger.states()["leased"] == 1
    ledger.check()


def test_no_more_groups_are_admitted_than_the_remaining_steps_need():
    ledger = Ledger(config(max_staleness=3), steps=2)
    assert len(ledger.issue(100, 0.0)) == 4
    ledger.publish(2)
    assert ledger.capacity() == 0


def test_a_resumed_run_may_have_another_number_of_groups_per_step():
    record = Record()
    record.add(dict.fromkeys(range(80), State.TRAINED))
    ledger = Ledger(config(groups_per_step=4, max_staleness=0), record, version=10, steps=20)
    assert ledger.issue(100, 0.0) == [(80, 0), (81, 0), (82, 0), (83, 0)]


def test_the_driver_follows_the_numbering_so_that_a_rebuilt_ledger_numbers_no_group_twice():
    ledger, driver = Ledger(config()), Record()
    ledger.issue(4, 0.0)
    ledger.lose(2, 0)
    driver.follow(ledger.cursor())
    rebuilt = Ledger(config(), driver)
    assert rebuilt.totals()["issued"] == 4
    assert [rebuilt.issue(4, 0.0) for _ in range(3)] == [[(0, 1), (1, 1)], [(2, 2)], [(3, 1)]]
    assert rebuilt.cursor().losses == {2: 1}
    driver.add({2: State.TRAINED})
    assert Record.from_dict(driver.to_dict()).losses == {}


def test_finals_are_idempotent_and_keep_the_first_state():
    record = Record()
    record.add({1: State.TRAINED})
    record.add({1: State.QUARANTINED, 0: State.FILTERED})
    assert record.totals == {"trained": 1, "filtered": 1, "quarantined": 0}
    assert (record.floor, record.finals, record.issued) == (2, {}, 2)
    with pytest.raises(ValueError, match="is not a final state"):
        record.add({2: State.READY})


def test_a_restarted_ledger_issues_every_open_group_again():
    record = Record()
    record.issued = 5
    record.add({0: State.TRAINED, 3: State.TRAINED})
    ledger = Ledger(config(max_staleness=3), Record.from_dict(record.to_dict()), version=1)
    assert ledger.issue(3, 0.0) == [(1, 1), (2, 1), (4, 1)]
    assert ledger.totals()["issued"] == 5
    ledger.check()


def test_a_restarted_ledger_continues_to_count_re_issues():
    ledger, driver = Ledger(config()), Record()
    make_ready(ledger, *ledger.issue(4, 0.0)[0], 0)
    ledger.publish(2)
    ledger.lease(2, 0.0)
    driver.follow(ledger.cursor())
    totals = Ledger(config(), Record.from_dict(driver.to_dict())).totals()
    assert (totals["stale_dropped"], totals["reissued"]) == (1, 1 + 4)


def test_a_restarted_ledger_keeps_the_groups_of_a_learner_step_for_it():
    record = Record(issued=4, attempts={1: 2})
    ledger = Ledger(config(), record, leased=(0, 1))
    assert ledger.states()["leased"] == 2
    assert ledger.cursor().attempts == {1: 2, 2: 1, 3: 1}
    assert ledger.issue(4, 0.0) == [(2, 1), (3, 1)]
    ledger.finish({0: State.TRAINED, 1: State.FILTERED}, version=1)
    assert ledger.totals()["trained"] == ledger.totals()["filtered"] == 1
    ledger.check()


def test_every_epoch_visits_each_problem_once_in_its_own_order():
    order = ProblemSchedule(problems=7, seed=3)
    first = [order.group_id(n) for n in range(7)]
    second = [order.group_id(n) for n in range(7, 14)]
    assert sorted(g.problem for g in first) == sorted(g.problem for g in second) == list(range(7))
    assert {g.epoch for g in first} == {0} and {g.epoch for g in second} == {1}
    assert [g.problem for g in first] != [g.problem for g in second]
    assert first == [ProblemSchedule(7, 3).group_id(n) for n in range(7)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("refill", [False, True])
@pytest.mark.parametrize("staleness", [0, 2])
def test_the_identity_survives_random_losses_restarts_and_stale_groups(seed, refill, staleness):
    rng = random.Random(seed)
    driver = Record()
    ledger = Ledger(config(max_staleness=staleness, refill=refill, max_attempts=50))
    trained: list[int] = []
    version = 0
    while version < 25:
        orders = ledger.issue(rng.randint(1, 3), 0.0)
        for number, attempt in orders:
            if rng.random() < 0.2:
                assert ledger.lose(number, attempt)
                continue
            stamp = max(0, version - rng.randint(0, staleness + 1))
            make_ready(ledger, number, attempt, stamp, rng.choice([0, 4, 4, 4]), zero_signal=rng.random() < 0.3)
        ledger.check()
        leased = ledger.lease(2, 0.0)
        if leased is not None:
            finals = {n: rng.choice([State.TRAINED, State.FILTERED]) for n in leased} | ledger.unreported()
            driver.add(finals)
            trained += leased
            version += 1
            if rng.random() < 0.2:
                ledger = Ledger(ledger.config, driver, version)
            else:
                ledger.finish(finals, version)
                ledger.publish(version)
        ledger.check()
        driver.add(ledger.unreported())
    assert len(trained) == len(set(trained)) == 50
    ledger.finish({}, version)
    totals = ledger.totals()
    assert totals["issued"] == sum(totals[s.value] for s in FINAL) + totals["in_flight"]


def test_the_worked_example_of_the_docstring():
    ledger = Ledger(ReplayConfig(groups_per_step=2, max_staleness=1))
    assert ledger.capacity() == 4
    assert ledger.issue(2, 0.0) == [(0, 0), (1, 0)]
    assert ledger.generated(0, 0, 0, 0.0)
    assert ledger.lose(1, 0) is State.ISSUED
    assert not ledger.generated(1, 0, 0, 0.0)
    assert ledger.issue(2, 0.0) == [(1, 1)]
    assert ledger.generated(1, 1, 0, 0.0)
    assert ledger.scoring(0, 0, 0.0) and ledger.scoring(1, 1, 0.0)
    assert ledger.ready(0, 0, 0.0, valid=8, zero_signal=False) is State.READY
    assert ledger.lease(2, 0.0) is None
    assert ledger.ready(1, 1, 0.0, valid=8, zero_signal=True) is State.READY
    assert ledger.lease(2, 0.0) == [0, 1]
    before = ledger.capacity()
    ledger.finish({0: State.TRAINED, 1: State.FILTERED}, version=1)
    ledger.publish(1)
    assert ledger.capacity() == before + 2
    totals = ledger.totals()
    assert (totals["issued"], totals["trained"], totals["filtered"], totals["in_flight"]) == (2, 1, 1, 0)
    assert totals["reissued"] == 1
    ledger.check()
