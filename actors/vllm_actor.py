"""A Ray actor around `serving.vllm_server.VllmServer`, which gives the server GPUs of the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray import ObjectRef

from couplet.actors.remote import fetch, start_actor
from couplet.configs.schema import ConfigError
from couplet.learner.rendezvous import free_port
from couplet.serving.vllm_server import VllmServer

START_SECONDS = 60.0  # for the actor itself
CLOSE_SECONDS = 60.0


class VllmActor:
    """Owns one server."""

    def start(self, model: str, python: str | None, options: Sequence[str], timeout: float) -> tuple[str, str]:
        """Start a server on this node and wait until it is ready; its address and key."""
        self.server = VllmServer(
            model, free_port(), python=python, options=options, host=ray.util.get_node_ip_address()
        )
        try:
            self.server.wait_ready(timeout)
        except ConfigError:
            self.server.close()
            raise
        return self.server.url, self.server.key

    def close(self) -> None:
        """End the server."""
        self.server.close()


@contextmanager
def serving_on_ray(
    model: str, *, python: str | None, gpus: float, options: Sequence[str], timeout: float
) -> Iterator[tuple[str, str]]:
    """(address, key) of a server on the joined cluster, for the duration of the block.

    Raises:
        ConfigError: no vLLM, too few GPUs, or a server that is not ready in time, with the end of its log.
    """
    have = ray.cluster_resources().get("GPU", 0)
    if gpus > have:
        raise ConfigError(f"--vllm-gpus {gpus:g}: the cluster has {have:g}; lower it, or add nodes")
    # The server's node has another working directory. Links stay: an interpreter's link selects its environment.
    if os.path.exists(model):
        model = os.path.abspath(model)
    if python is not None and os.sep in python:
        python = os.path.abspath(python)
    actor = start_actor(VllmActor, {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0})
    try:
        ready: ObjectRef = actor.start.remote(model, python, list(options), timeout)
        yield fetch(ready, "vLLM actor", timeout + START_SECONDS)
    finally:
        ray.wait([actor.close.remote()], timeout=CLOSE_SECONDS)
        ray.kill(actor)  # the server's keeper notices if it is still running
