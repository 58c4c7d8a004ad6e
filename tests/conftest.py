"""One Ray for the whole test run, and the tiny folders many tests start from."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

START_TRIES = 3  # Ray gives a node 30 s to come up
PATIENT = {
    "metrics_report_interval_ms": 1000,
    "prestart_worker_first_driver": False,  # sixteen idle processes
    "memory_monitor_refresh_ms": 0,  # other programs' memory is no reason to kill an actor
    "worker_register_timeout_seconds": 300,
    "health_check_timeout_ms": 60_000,
}


@pytest.fixture(scope="session")
def ray_cluster():
    """A small local Ray that every `ray` test shares."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback only
    os.environ["RAY_allow_out_of_band_object_ref_serialization"] = "0"
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "240")
    import ray

    for last in (False,) * (START_TRIES - 1) + (True,):
        try:
            ray.init(
                address="local",
                num_cpus=16,
                object_store_memory=200 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                _system_config=PATIENT,
            )
            break
        except Exception:
            ray.shutdown()
            if last:
                raise
    yield ray
    ray.shutdown()
