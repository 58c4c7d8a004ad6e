"""A pool of E2B sandboxes: an event loop of its own, creation with back-off, recycling, typed faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from configs.schema import ConfigError, SandboxConfig
from reward.sandbox.faults import SandboxFault

CREATE_ATTEMPTS = 6
CREATE_BACK_OFF = 1.0  # seconds; creation is limited to one or five a second, by plan
LIFETIME = 3600  # seconds a cloud sandbox may live
REQUEST_SECONDS = 60.0
KEY = "E2B_API_KEY"


def client() -> Any:
    """E2B's client module. Raises `ConfigError` where it is not installed."""
    try:
        import e2b_code_interpreter
    except ImportError:
        raise ConfigError("sandbox.tier = 'e2b': the client is not installed; pip install 'couplet[e2b]'") from None
    return e2b_code_interpreter


def fault_of(error: BaseException) -> SandboxFault:
    """The typed fault behind an error of the client. Note that two of its errors are no `SandboxException`."""
    import e2b.exceptions as known
    import httpx

    kinds = (
        (known.AuthenticationException, "auth"),
        (known.ServiceBusyException, "busy"),
        (known.RateLimitException, "rate_limit"),
        (known.SandboxNotRunningException, "sandbox_died"),
        (known.SandboxUnreachableException, "sandbox_died"),
        (known.NotFoundException, "sandbox_died"),
        (known.TimeoutException, "http_timeout"),
        (known.SandboxException, "http"),
        (httpx.TimeoutException, "http_timeout"),
        (httpx.HTTPError, "connection"),
        (OSError, "connection"),
    )
    kind = next((kind for family, kind in kinds if isinstance(error, family)), "client")
    if kind == "http_timeout" and "sandbox was killed" in str(error):
        kind = "sandbox_died"
    return SandboxFault(kind, f"{type(error).__name__}: {error}")


class Pool:
    """At most `e2b_pool` cloud sandboxes, each used by one program at a time. Methods may be called from any thread.

    Raises `ConfigError` at construction where the key is missing or refused: one sandbox is made to find out.
    """

    def __init__(self, config: SandboxConfig, setup: str) -> None:
        self.config, self.setup = config, setup
        self.module = client()
        self.key = os.environ.get(KEY)
        if not self.key:
            raise ConfigError(f"sandbox.tier = 'e2b': set {KEY} to your E2B key")
        self.idle: list[tuple[Any, int]] = []  # (sandbox, programs run in it)
        self.created = self.discarded = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="e2b", daemon=True)
        self.thread.start()
        self.slots = asyncio.Semaphore(config.e2b_pool)
        try:
            self._wait(self._first())
        except BaseException:
            self.close()
            raise

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _first(self) -> None:
        try:
            self.idle.append((await self._create(), 0))
        except SandboxFault as fault:
            if fault.kind == "auth":
                raise ConfigError(f"sandbox.tier = 'e2b': {KEY} was refused: {fault.detail}") from None
            raise

    async def _create(self) -> Any:
        """A new sandbox with the runner in it. Backs off while the service is busy or limits the rate."""
        for attempt in range(CREATE_ATTEMPTS):
            try:
                sandbox = await self.module.AsyncSandbox.create(
                    template=self.config.e2b_template,
                    timeout=LIFETIME,
                    allow_internet_access=False,
                    envs={},
                    api_key=self.key,
                    request_timeout=REQUEST_SECONDS,
                    retries=0,
                )
                break
            except Exception as error:
                fault = fault_of(error)
                if fault.kind not in ("rate_limit", "busy", "http", "http_timeout", "connection"):
                    raise fault from error
                if attempt == CREATE_ATTEMPTS - 1:
                    raise fault from error
                await asyncio.sleep(CREATE_BACK_OFF * 2**attempt * random.uniform(0.5, 1.5))
        self.created += 1
        await self._execute(sandbox, self.setup, REQUEST_SECONDS)
        return sandbox

    async def _execute(self, sandbox: Any, code: str, seconds: float) -> str:
        """What `code` prints in `sandbox`. The sandbox is thrown away with any error."""
        try:
            execution = await sandbox.run_code(code, timeout=seconds, request_timeout=REQUEST_SECONDS)
        except BaseException as error:
            await self._discard(sandbox)
            if isinstance(error, Exception):
                raise fault_of(error) from error
            raise
        if execution.error is not None:
            await self._discard(sandbox)
            raise SandboxFault("driver", f"{execution.error.name}: {execution.error.value}"[:500])
        return "".join(execution.logs.stdout)

    async def _discard(self, sandbox: Any) -> None:
        self.discarded += 1
        with contextlib.suppress(Exception):
            await asyncio.wait_for(sandbox.kill(), REQUEST_SECONDS)

    async def _run(self, code: str, seconds: float, spoiled: Callable[[str], bool]) -> str:
        async with self.slots:
            sandbox, programs = self.idle.pop() if self.idle else (await self._create(), 0)
            text = await self._execute(sandbox, code, seconds)
            if spoiled(text) or programs + 1 >= self.config.e2b_programs:
                await self._retire(sandbox)
            else:
                self.idle.append((sandbox, programs + 1))
            return text

    async def _retire(self, sandbox: Any) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(sandbox.kill(), REQUEST_SECONDS)

    def run(self, code: str, seconds: float, spoiled: Callable[[str], bool] = lambda text: False) -> str:
        """What `code` prints in some sandbox, within `seconds`; a sandbox that prints something `spoiled` is retired.

        Raises `SandboxFault`; that sandbox is not used again.
        """
        return str(self._wait(self._run(code, seconds, spoiled)))

    def close(self) -> None:
        """Kill every sandbox and stop the event loop."""
        if self.thread.is_alive():
            self._wait(self._kill_all())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    async def _kill_all(self) -> None:
        idle, self.idle = self.idle, []
        await asyncio.gather(*(self._retire(sandbox) for sandbox, _ in idle))
