"""A run accepts the sandbox tiers it started in and stronger ones."""

import pytest

from couplet.reward.tiers import accepted, refuse


@pytest.mark.parametrize(
    "found, tiers",
    [
        (["namespace"], ("namespace",)),
        (["landlock", "namespace"], ("namespace", "landlock")),
        (["seccomp"], ("namespace", "landlock", "seccomp")),
        (["e2b"], ("e2b",)),
        ([], ()),
    ],
)
def test_accepted_tiers(found, tiers):
    assert accepted(found) == tiers


def test_a_weaker_tier_gives_faults_and_never_verdicts():
    assert refuse("namespace", ("namespace", "landlock"), 3) is None
    assert refuse("rlimits", (), 3) is None
    faults = refuse("rlimits", ("namespace", "landlock"), 3)
    assert [(fault.outcome.is_verdict, fault.reason) for fault in faults] == [(False, "tier_rlimits")] * 3
