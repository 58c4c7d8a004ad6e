"""A pool of E2B sandboxes with its own event loop: creation with back-off, leases, recycling, typed faults."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from couplet.configs.schema import ConfigError, SandboxConfig
from couplet.data.retry import Retry
from couplet.reward.e2b.faults import Unrelated, fault_of
from couplet.reward.sandbox.faults import SandboxFault

CREATION = Retry(attempts=6, pause=1.0, jitter=0.5)  # creation is limited to one or five a second, by plan
LIFETIME = 3600  # seconds a cloud sandbox may live in all
LEASE = 300  # seconds it lives unless renewed, so that a killed worker leaves nothing running for longer
REQUEST_SECONDS = 60.0
LONGEST_RUN = LIFETIME - 2 * REQUEST_SECONDS  # seconds; a new sandbox outlives any run
WAIT_SECONDS = 900.0  # seconds to wait for a run beyond its own time: for every attempt to create a sandbox
PASSING = ("rate_limit", "busy", "http", "http_timeout", "connection", "sandbox_died")  # creation is tried again
KEY = "E2B_API_KEY"


def client() -> Any:
    """E2B's client module. Raises `ConfigError` if it is not installed."""
    try:
        import e2b_code_interpreter
    except ImportError:
        raise ConfigError(
            "sandbox.tier = 'e2b': the client is not installed; pip install -c constraints.txt -e '.[e2b]'"
        ) from None
    return e2b_code_interpreter


@dataclass(eq=False)
class Slot:
    """A cloud sandbox and its state; times are monotonic."""

    sandbox: Any
    born: float
    until: float  # guaranteed to live this long
    runs: int = 0
    tenants: set[str] = field(default_factory=set)  # programs that have used it


def as_printed(text: str) -> tuple[str, bool]:
    """The output of a run, from a sandbox that may be used again."""
    return text, True


class Pool:
    """At most `e2b_pool` cloud sandboxes, each used by one program at a time. Methods may be called from any thread.

    Raises `ConfigError` at construction if the key is missing or rejected: one sandbox is created to find out.
    """

    def __init__(self, config: SandboxConfig, setup: str) -> None:
        self.config, self.setup = config, setup
        self.module = client()
        self.key = os.environ.get(KEY)
        if not self.key:
            raise ConfigError(f"sandbox.tier = 'e2b': set {KEY} to your E2B key")
        self.idle: list[Slot] = []
        self.living: set[Slot] = set()
        self.running: set[asyncio.Task[Any]] = set()
        self.created = self.discarded = 0
        self.lock = threading.Lock()
        self.closed = False
        self.awaited: set[Future[Any]] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="e2b", daemon=True)
        self.thread.start()
        self.slots = asyncio.Semaphore(config.e2b_pool)
        self.taken = 0  # slots in use
        try:
            self._wait(self._first(), WAIT_SECONDS)
        except BaseException:
            self.close()
            raise

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """The result of `work`. Raises `SandboxFault`, also if it takes too long or the pool is closed."""
        with self.lock:
            if self.closed:
                work.close()
                raise SandboxFault("closed", "the pool is closed")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
            self.awaited.add(future)
        try:
            return future.result(seconds)
        except CancelledError:
            raise SandboxFault("closed", "the pool was closed") from None
        except TimeoutError:
            raise SandboxFault("stuck", f"the pool gave no answer within {seconds:.0f} s") from None
        finally:
            future.cancel()
            with self.lock:
                self.awaited.discard(future)

    async def _first(self) -> None:
        try:
            self.idle.append(await self._create())
        except SandboxFault as fault:
            if fault.kind == "auth":
                raise ConfigError(f"sandbox.tier = 'e2b': {KEY} was refused: {fault.detail}") from None
            raise

    async def _create(self) -> Slot:
        """A new sandbox with the runner in it. Backs off while the service is busy or limits the rate."""
        for attempt in range(CREATION.attempts):
            if attempt:
                await asyncio.sleep(CREATION.seconds(attempt))
            try:
                return await self._make()
            except SandboxFault as fault:
                if fault.kind not in PASSING or attempt == CREATION.attempts - 1:
                    raise Unrelated(fault.kind, fault.detail) from fault
        raise AssertionError("unreachable")

    async def _make(self) -> Slot:
        born = monotonic()
        creation = asyncio.ensure_future(
            self.module.AsyncSandbox.create(
                template=self.config.e2b_template,
                timeout=LEASE,
                allow_internet_access=False,
                envs={},
                api_key=self.key,
                request_timeout=REQUEST_SECONDS,
                retries=0,
            )
        )
        try:
            sandbox = await asyncio.shield(creation)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # it was requested, so it must not be left running
                await (await creation).kill()
            raise
        except Exception as error:
            raise fault_of(error) from error
        self.created += 1
        slot = Slot(sandbox, born, born + LEASE)
        self.living.add(slot)
        await self._execute(slot, self.setup, REQUEST_SECONDS)
        return slot

    async def _renew(self, slot: Slot) -> None:
        """Extend the lease of a sandbox, up to its whole lifetime. Raises `SandboxFault`."""
        now = monotonic()
        seconds = min(LEASE, slot.born + LIFETIME - now)
        try:
            await slot.sandbox.set_timeout(math.ceil(seconds), request_timeout=REQUEST_SECONDS)
        except Exception as error:
            raise fault_of(error) from error
        slot.until = now + seconds

    async def _keep(self, slot: Slot) -> None:
        """Renew the lease at half of its remaining time, until cancelled."""
        while slot.until < slot.born + LIFETIME:
            await asyncio.sleep(max((slot.until - monotonic()) / 2, LEASE / 20))
            with contextlib.suppress(SandboxFault):
                await self._renew(slot)

    async def _lasts(self, slot: Slot, seconds: float) -> bool:
        """Whether an idle sandbox is alive, and will be for a run of so many seconds."""
        now = monotonic()
        if now + seconds > slot.born + LIFETIME or now + LEASE / 10 > slot.until:
            return False
        if slot.until - now < LEASE / 2:
            try:
                await self._renew(slot)
            except SandboxFault as fault:
                return fault.kind != "sandbox_died"
        return True

    async def _draw(self, seconds: float, tenant: str, alone: bool) -> Slot:
        """A sandbox that lives for a run of so many seconds; with `alone` one that no other program has used."""
        while suited := [slot for slot in self.idle if not (alone and slot.tenants - {tenant})]:
            slot = suited[-1]
            self.idle.remove(slot)
            if await self._lasts(slot, seconds):
                return slot
            await self._retire(slot)
        while self.idle and len(self.idle) + self.taken > self.config.e2b_pool:
            await self._retire(self.idle.pop(0))
        return await self._create()

    async def _execute(self, slot: Slot, code: str, seconds: float) -> str:
        """The output of `code` in a sandbox, which is discarded on any error."""
        try:
            execution = await slot.sandbox.run_code(code, timeout=seconds, request_timeout=REQUEST_SECONDS)
        except BaseException as error:
            await self._discard(slot)
            if isinstance(error, Exception):
                raise fault_of(error) from error
            raise
        if execution.error is not None:
            await self._discard(slot)
            raise SandboxFault("driver", f"{execution.error.name}: {execution.error.value}"[:500])
        return "".join(execution.logs.stdout)

    async def _discard(self, slot: Slot) -> None:
        self.discarded += 1
        await self._retire(slot)

    async def _retire(self, slot: Slot) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(slot.sandbox.kill(), REQUEST_SECONDS)
        self.living.discard(slot)

    async def _run(
        self, code: str, seconds: float, read: Callable[[str], tuple[Any, bool]], tenant: str, alone: bool
    ) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            async with self.slots:
                self.taken += 1
                try:
                    return await self._run_in(await self._draw(seconds, tenant, alone), code, seconds, read, tenant)
                finally:
                    self.taken -= 1
        finally:
            self.running.discard(task)

    async def _run_in(
        self, slot: Slot, code: str, seconds: float, read: Callable[[str], tuple[Any, bool]], tenant: str
    ) -> Any:
        others = bool(slot.tenants - {tenant})
        slot.tenants.add(tenant)
        slot.runs += 1
        keeper = asyncio.ensure_future(self._keep(slot))
        try:
            text = await self._execute(slot, code, seconds)
            try:
                value, clean = read(text)
            except SandboxFault:
                await self._discard(slot)
                raise
        except SandboxFault as fault:
            if others or monotonic() >= slot.until:
                raise Unrelated(fault.kind, fault.detail) from fault
            raise
        finally:
            keeper.cancel()
        if clean and slot.runs < self.config.e2b_programs:
            self.idle.append(slot)
        else:
            await self._retire(slot)
        return value

    def run(
        self,
        code: str,
        seconds: float,
        read: Callable[[str], tuple[Any, bool]] = as_printed,
        tenant: str = "",
        alone: bool = False,
    ) -> Any:
        """The result of `read` on the output of `code` in some sandbox, within `seconds` (at most `LONGEST_RUN`).

        `read` also decides whether that sandbox may be used again. `tenant` names the program; with `alone` it gets a
        sandbox that no other has used. Raises `SandboxFault`; `Unrelated` if the program may not have caused it;
        that sandbox is not used again.
        """
        return self._wait(self._run(code, seconds, read, tenant, alone), seconds + WAIT_SECONDS)

    def close(self) -> None:
        """Kill every sandbox, including those in use, and stop the event loop; pending runs get a fault."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
        with contextlib.suppress(TimeoutError, CancelledError):
            asyncio.run_coroutine_threadsafe(self._kill_all(), self.loop).result(4 * REQUEST_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(REQUEST_SECONDS)
        with self.lock:
            awaited = list(self.awaited)
        for future in awaited:
            future.cancel()
        if not self.thread.is_alive():
            self.loop.close()

    async def _kill_all(self) -> None:
        running, self.idle = set(self.running), []
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=2 * REQUEST_SECONDS)
        await asyncio.gather(*(self._retire(slot) for slot in list(self.living)))
