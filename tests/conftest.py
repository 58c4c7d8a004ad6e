"""One Ray for the whole test run, and the tiny folders many tests start from."""

import os

import pytest

from tests.patience import be_patient_with_ray

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_cluster():
    """A small local Ray that every `ray` test shares."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback only
    os.environ["RAY_allow_out_of_band_object_ref_serialization"] = "0"
    be_patient_with_ray()
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
