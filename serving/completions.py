"""A small client for any server that speaks OpenAI's completions protocol (vLLM, llama.cpp, SGLang, ...)."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from couplet.configs.errors import UserError
from couplet.data.retry import Retry

log = logging.getLogger(__name__)

RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


class EndpointError(UserError):
    """The server cannot be reached or rejects a request; the message names the address, the fault and the remedy."""


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. `seed` None leaves the seed to the server; request i uses seed + i."""

    samples: int = 1
    max_tokens: int = 512
    temperature: float = 0.8
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass
class Client:
    """Completions from one endpoint, `concurrency` requests at a time.

    Attributes:
        base_url: address up to and including the version, e.g. http://127.0.0.1:8000/v1.
        model: name of the model; None takes the first the server lists.
        chat: send the prompt as a user message, to which the server applies its chat template.
        system: system message for `chat`.
        retries: attempts after the first, for connection faults and the status codes in `RETRIED`; the pause doubles
            from `backoff` seconds, and a Retry-After header is obeyed up to a minute.
        api_key: sent as bearer token, if given.
    """

    base_url: str
    model: str | None = None
    chat: bool = True
    system: str | None = None
    concurrency: int = 32
    timeout: float = 600.0
    retries: int = 5
    backoff: float = 0.5
    api_key: str | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        address = urllib.parse.urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise EndpointError(f"{self.base_url!r} is not the address of a server, e.g. http://127.0.0.1:8000/v1")
        self.base_url = self.base_url.rstrip("/")
        self._model_lock = threading.Lock()
        # Do not use the proxy of the environment for servers on this machine.
        is_local = address.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if is_local else []
        self._opener = urllib.request.build_opener(*proxies)

    def models(self) -> list[str]:
        """Names of the models the server offers, at least one. EndpointError if it names none."""
        answer = self._request("/models", None)
        entries = answer.get("data")
        known = isinstance(entries, list) and all(isinstance(entry, dict) and entry.get("id") for entry in entries)
        if not known:
            raise EndpointError(f"{self.base_url}/models: not a response of the protocol: {str(answer)[:200]}")
        if not entries:
            raise EndpointError(f"{self.base_url}/models: the server offers no model")
        return [str(entry["id"]) for entry in entries]

    def model_name(self) -> str:
        """The model to request: the named one, else the first that the server lists."""
        with self._model_lock:
            if self.model is None:
                self.model = self.models()[0]
            return self.model

    def complete(self, prompt: str, sampling: Sampling, index: int = 0) -> list[str]:
        """`sampling.samples` completions of one prompt."""
        body: dict[str, Any] = {
            "model": self.model_name(),
            "n": sampling.samples,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            body["seed"] = sampling.seed + index
        if self.chat:
            system = [{"role": "system", "content": self.system}] if self.system else []
            body["messages"] = [*system, {"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        path = "/chat/completions" if self.chat else "/completions"
        return self._texts(self._request(path, body), path, sampling.samples)

    def complete_many(self, prompts: Iterable[str], sampling: Sampling) -> Iterator[list[str]]:
        """Completions of every prompt, in order, with at most `concurrency` requests at a time."""
        numbered = enumerate(prompts)
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="completions") as pool:

            def submit(count: int) -> list[Any]:
                return [pool.submit(self.complete, prompt, sampling, i) for i, prompt in islice(numbered, count)]

            pending = submit(self.concurrency)
            try:
                while pending:
                    result = pending.pop(0).result()
                    pending += submit(1)
                    yield result
            finally:
                for future in pending:
                    future.cancel()

    def _texts(self, answer: dict[str, Any], path: str, samples: int) -> list[str]:
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
            texts = [choice["message"]["content"] if self.chat else choice["text"] for choice in choices]
        except (KeyError, TypeError, AttributeError) as error:
            raise EndpointError(
                f"{self.base_url}{path}: not a response of the protocol: {str(answer)[:200]}"
            ) from error
        if len(texts) != samples:
            raise EndpointError(f"{self.base_url}{path}: {len(texts)} completions for n = {samples}")
        return [text or "" for text in texts]

    def _request(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request with retries."""
        asked: float | None = 0.0  # seconds that the server asks for
        retry = Retry(
            self.retries + 1, self.backoff, sleep=lambda pause: self.sleep(max(pause, min(asked or 0.0, 60.0)))
        )
        for attempt in retry:
            outcome, asked = self._attempt(path, body)
            if isinstance(outcome, dict):
                return outcome
            if asked is None:
                raise EndpointError(f"{self.base_url}{path}: {outcome}")
            if attempt < self.retries:
                log.warning("%s%s: %s; it is tried again", self.base_url, path, str(outcome)[:200])
        raise EndpointError(
            f"{self.base_url}{path}: {outcome}, after {self.retries + 1} attempts; is the server running "
            "(vllm serve MODEL), and is this the right address?"
        )

    def _attempt(self, path: str, body: dict[str, Any] | None) -> tuple[dict[str, Any] | str, float | None]:
        """(the answer, None), or (what went wrong, least seconds to wait, None if a retry is pointless)."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base_url + path, data=data, headers=headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as reply:
                content = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read(2000).decode("utf-8", "replace").strip()
                after = error.headers.get("Retry-After", "")
            wait = float(after) if after.isdigit() else 0.0
            return f"HTTP {error.code}: {detail or error.reason}", wait if error.code in RETRIED else None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            return f"cannot be reached: {getattr(error, 'reason', None) or error!r}", 0.0
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return f"the reply is not a JSON object: {content[:200]!r}", None
        return answer, None
