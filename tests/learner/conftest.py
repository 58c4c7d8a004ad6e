import pytest
import torch

from couplet.learner.process_group import leave
from tests.learner.pair import TASKS, Pair
from tests.learner.toys import toy_policy


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def policy():
    return toy_policy()


@pytest.fixture(scope="session")
def pair():
    """Two learner ranks; several seconds to start, so one pair serves all tests."""
    both = Pair()
    yield both
    both.close()


@pytest.fixture(scope="session")
def alone():
    """`train` or `adapt` on one rank in this process; leaves the process group at the end."""

    def run(task, **arguments):
        return TASKS[task](0, 1, **arguments)

    yield run
    leave()
