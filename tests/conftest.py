"""One Ray for the whole test run."""

import os
from pathlib import Path

import pytest

from tests.ray_limits import give_ray_time

os.environ.setdefault("OMP_NUM_THREADS", "1")

APART = (
    "test_chaos",
    "test_closing",
    "test_learning",
    "test_nodes",
)  # tests of actors that start their own Ray, or none


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`make test` uses two processes: one runs all tests that share the one Ray, both run the others, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = Path(nodeid.partition("::")[0])
            shares = "actors" in file.parts and file.stem not in APART
            return "the shared Ray" if shares else str(file)

    return OneRay(config, log)


@pytest.fixture(scope="session")
def ray_cluster():
    """A small local Ray that every `ray` test shares."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback only
    os.environ["RAY_allow_out_of_band_object_ref_serialization"] = "0"
    give_ray_time()
    import ray

    ray.init(
        address="local",
        num_cpus=16,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield ray
    ray.shutdown()
