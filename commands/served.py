"""A served model that `prepare rate` asks: a running server, or `vllm serve`, started for the time of the rating."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from couplet.serving.completions import Client

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Served:
    """An autoregressive model behind the completions protocol.

    Exactly one of `endpoint` and `vllm` is given.

    Attributes:
        endpoint: address of a running server, up to and including the version.
        vllm: model for which `vllm serve` is started, with `python` of its environment, on `gpus`.
        options: further options of `vllm serve`.
        ready_seconds: time limit for its start.
        model: name at the server; None takes its first.
        base: the model is not a chat model: it continues the problem's code, or an answer begun for it.
        concurrency: requests under way at a time.
        request_seconds: time limit of one request.
    """

    endpoint: str | None
    vllm: str | None
    python: str | None
    gpus: float
    options: Sequence[str]
    ready_seconds: float
    model: str | None
    base: bool
    concurrency: int
    request_seconds: float

    @classmethod
    def of(cls, args: argparse.Namespace) -> Served:
        """The model that a command line names."""
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})

    def named(self) -> Served:
        """With its model named: the one that is started, or the one an endpoint answers with.

        Raises:
            EndpointError: the server cannot be reached, or offers no model.
        """
        name = self.vllm if self.endpoint is None else self._running(self.endpoint).model_name()
        return dataclasses.replace(self, model=name)

    @contextmanager
    def client(self, *, local: bool) -> Iterator[Client]:
        """A client of the running server, or of one that is started for the time of the block."""
        if self.endpoint is not None:
            yield self._running(self.endpoint)
            return
        start = self._started_here if local else self._started_on_ray
        with start() as (url, key):
            yield self._client(url, None, key)

    def _running(self, endpoint: str) -> Client:
        return self._client(endpoint, self.model, os.environ.get(KEY_VARIABLE))

    def _client(self, url: str, model: str | None, key: str | None) -> Client:
        chat, timeout = not self.base, self.request_seconds
        return Client(url, model, chat=chat, api_key=key, concurrency=self.concurrency, timeout=timeout)

    def _started_on_ray(self) -> AbstractContextManager[tuple[str, str]]:
        from couplet.actors.vllm_actor import serving_on_ray

        assert self.vllm is not None
        return serving_on_ray(
            self.vllm, python=self.python, gpus=self.gpus, options=self.options, timeout=self.ready_seconds
        )

    @contextmanager
    def _started_here(self) -> Iterator[tuple[str, str]]:
        from couplet.learner.rendezvous import free_port
        from couplet.serving.vllm_server import VllmServer

        assert self.vllm is not None
        server = VllmServer(self.vllm, free_port(), python=self.python, options=self.options)
        try:
            server.wait_ready(self.ready_seconds)
            yield server.url, server.key
        finally:
            server.close()
