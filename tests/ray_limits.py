"""Longer time limits for Ray, whose own assume an idle machine."""

import functools
import os
import time

SECONDS = 300
LIMITS = {
    "RAY_agent_register_timeout_ms": 1000 * SECONDS,
    "RAY_gcs_rpc_server_connect_timeout_s": 60,
    "RAY_gcs_server_port_wait_time_s": SECONDS,
    "RAY_gcs_server_request_timeout_seconds": SECONDS,
    "RAY_health_check_timeout_ms": 60_000,
    "RAY_py_gcs_connect_timeout_s": SECONDS,
    "RAY_worker_register_timeout_seconds": SECONDS,
}
LESS_WORK = {
    "RAY_prestart_worker_first_driver": 0,  # Ray would start an idle process per CPU slot
    "RAY_memory_monitor_refresh_ms": 0,  # do not kill actors because another program needs memory
    "RAY_USAGE_STATS_ENABLED": 0,
    "RAY_worker_niceness": 0,  # 15 by default: on a busy machine an actor would wait for everything else
}


def give_ray_time(**more: int) -> None:
    """Set the limits for this process and those it starts. Call it before `ray.init`."""
    for name, value in (LIMITS | LESS_WORK | more).items():
        os.environ.setdefault(name, str(value))
    more_time_for_nodes()


def more_time_for_nodes() -> None:
    """In this process, wait up to `SECONDS` for a node to start; Ray waits 30."""
    from ray._private import services

    look = getattr(services, "get_node", None)
    if look is None or hasattr(look, "__wrapped__"):
        return

    @functools.wraps(look)
    def with_time(*arguments):
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return look(*arguments)
            except RuntimeError:  # not registered yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    services.get_node = with_time
