"""The table of metrics is well formed, and the page made from it is up to date."""

import re

import pytest

from couplet.data.metric_table import GROUPS, METRICS, PAGE, find, markdown


def test_names_are_flat_and_unique():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", re.sub(r"[{}]", "", name)) for name in names)


def test_every_metric_says_what_it_means_in_one_of_the_groups():
    assert {metric.group for metric in METRICS} == set(GROUPS)
    assert all(metric.meaning and not metric.meaning.endswith(".") for metric in METRICS)


@pytest.mark.parametrize(
    "name, found",
    [
        ("reward_mean", "reward_mean"),
        ("reward_code_format", "reward_{function}"),
        ("ledger_ready", "ledger_{state}"),
        ("ledger_in_flight", "ledger_in_flight"),
        ("eval_pass_at_8", "eval_pass_at_{k}"),
        ("learner_kl_mean", "kl_mean"),
        ("learner_workers", "learner_workers"),
        ("loss_inner_2", "loss_inner_{update}"),
    ],
)
def test_an_exact_name_goes_before_its_family(name, found):
    assert find(name).name == found


def test_an_unknown_name_is_not_found():
    assert find("los") is None and find("learner_los") is None


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run make docs"
