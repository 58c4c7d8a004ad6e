"""Attaching to a Ray cluster, or starting a local one."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants, services

from couplet import IS_CHECKOUT, PACKAGES, ROOT
from couplet.actors.authentication import MODE, authenticate, is_loopback, is_socket, make_token
from couplet.actors.vitals import Vitals
from couplet.configs.schema import AdaptConfig, ConfigError, RayConfig, RunConfig, require
from couplet.data.files import scratch

CODE_SUFFIXES = (".py", ".json", ".yaml", ".mplstyle")  # of the packages: code, and what it reads when it is imported
COUNTS = {"learner": "ranks", "rollout": "actors", "reward": "actors"}  # role -> setting of its number of actors
SPARE_CPUS = 4  # of a local Ray, for actors that request none
TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"  # says that the safe default is used
WORKER_LOGGER = "ray._private.worker"  # warns about joining Ray from a thread, which is intended
LOOPBACK = "127.0.0.1"
SOCKET_PATH = 107  # longest path of a Unix socket
SESSION_PATH = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # below the temporary folder

log = logging.getLogger("couplet")


@dataclass(frozen=True)
class Connection:
    """A joined cluster: where its dashboard is, and whether this process joined Ray and so must leave it."""

    dashboard: str | None
    owned: bool
    vitals: Vitals | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster."""
        address: str = ray.get_runtime_context().gcs_address
        return address

    def describe(self) -> str:
        """The dashboard, and how to open it; "" if there is none."""
        if self.dashboard is None:
            return ""
        asked = os.environ.get(MODE, "").lower() == "token"
        return f"dashboard {self.dashboard}" + (" (asks for a token: `ray get-auth-token`)" if asked else "")

    def close(self) -> None:
        """Leave the cluster; a local one that was started here stops."""
        if self.vitals is not None:
            self.vitals.stop()
        if self.owned:
            ray.shutdown()


def connect(config: RunConfig | AdaptConfig, ended: Callable[[str], None] | None = None) -> Connection:
    """Join the cluster of `ray.address` or RAY_ADDRESS, or start a local Ray; one that is joined already is kept.

    `ended` is called from another thread with what of Ray's own processes has ended, if one does.

    Raises:
        ConfigError: no cluster answers at the address, it refuses this process, or it lacks what the run asks for.
    """
    if ray.is_initialized():
        connection = Connection(None, owned=False)
    else:
        modules = _own_modules(config.reward.functions) if isinstance(config, RunConfig) else ()
        context = attach(config.ray, local_cpus=_logical_cpus(config), modules=modules)
        connection = Connection(f"http://{context.dashboard_url}" if context.dashboard_url else None, owned=True)
    try:
        _require_resources(config)
    except BaseException:
        connection.close()
        raise
    if ended is None:
        return connection
    vitals = Vitals(partial(_kill_ray_and, ended) if _started_here() else ended)
    vitals.start()
    return replace(connection, vitals=vitals)


def _started_here() -> bool:
    """Whether Ray's processes on this machine are children of this one."""
    node = getattr(ray._private.worker, "_global_node", None)
    return node is not None and bool(node.all_processes)


def _kill_ray_and(ended: Callable[[str], None], what: str) -> None:
    """End what is left of a Ray that was started here, then call `ended`."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    ended(what)


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes that are alive, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def attach(config: RayConfig, local_cpus: int | None = None, local: bool = True, modules: Sequence[Path] = ()) -> Any:
    """`ray.init`, with one clear error if nothing answers; `local=False` never starts a cluster.

    `modules` are files and package folders that are sent to a cluster with the project's code.
    """
    logging.getLogger(TOKEN_LOGGER).addFilter(lambda record: "authentication is enabled" not in record.getMessage())
    address = _address(config)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address is None and local:
        return _start_local(config, local_cpus, **options)
    address = address or _only_cluster()
    require_listener(config)
    authenticate(_socket_of(address), config, may_be_open=not local)
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    packages = PACKAGES if IS_CHECKOUT else ()  # else installed, as on every node
    if inside_job or not local or not (packages or modules):
        return _init_within(config, address=address, **options)
    with _code_alone(packages, modules) as code:
        return _init_within(config, address=address, runtime_env={"working_dir": str(code)}, **options)


def _start_local(config: RayConfig, cpus: int | None, **options: Any) -> Any:
    """Start Ray on this machine, with every port of it bound to loopback."""
    make_token()
    inherited = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", **_short_tmpdir()}
    with _environment(inherited), _loopback_kept():
        return ray.init(
            address="local",
            num_cpus=config.num_cpus or cpus,
            object_store_memory=config.object_store_mb * 2**20,
            include_dashboard=config.dashboard,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            **options,
        )


@contextmanager
def _loopback_kept() -> Iterator[None]:
    """Without this, Ray replaces a loopback address by one that other machines reach."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _short_tmpdir() -> dict[str, str]:
    """Variables that keep Ray's sockets in /tmp if TMPDIR is too long for the path of a socket.

    Raises:
        ConfigError: /tmp cannot be used either.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    longest = SOCKET_PATH - SESSION_PATH
    if len(os.fsencode(os.environ.get(name, "/tmp"))) <= longest:
        return {}
    if not os.access("/tmp", os.W_OK | os.X_OK):
        raise ConfigError(
            f"{name} = {os.environ[name]!r}: longer than {longest} bytes, so Ray's sockets do not fit, and /tmp cannot be "
            f"written; set {name} to a shorter folder"
        )
    log.warning("%s is longer than %d bytes: Ray and its actors use /tmp instead", name, longest)
    return {name: "/tmp", "TMPDIR": "/tmp"}  # Ray's dashboard makes sockets in the latter


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _only_cluster() -> str:
    """The address of the Ray cluster on this machine, if there is exactly one.

    Raises:
        NoCluster: there is none.
        ConfigError: there are several.
    """
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    found = sorted(services.find_gcs_addresses())
    if not found:
        raise NoCluster("no Ray cluster runs on this machine")
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} Ray clusters run on this machine ({', '.join(found)}): name the run's folder with --run, or a "
            "cluster with --address"
        )
    return found[0]


def _socket_of(address: str) -> str:
    """HOST:PORT of an address, as far as it is known before joining."""
    if address != "auto":
        return address
    try:
        return services.canonicalize_bootstrap_address("auto", None) or address
    except ConnectionError:
        return address  # `ray.init` will say that there is none


def require_listener(config: RayConfig) -> None:
    """`ConfigError` if nothing listens at HOST:PORT of `ray.address` or RAY_ADDRESS; other forms are not checked."""
    address = _address(config) or ""
    if not is_socket(address):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=config.connect_timeout).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _address(config: RayConfig) -> str | None:
    return config.address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def _code_alone(packages: Sequence[str] = PACKAGES, modules: Sequence[Path] = ()) -> Iterator[Path]:
    """A folder with the code and the recipes of the packages; models, corpora and runs are not sent.

    `modules`, the user's own files or package folders, are put beside the namespace.
    """
    with scratch("code") as code:
        sources = [(Path(ROOT) / package, code / "couplet") for package in packages]
        if packages:
            sources.append((Path(ROOT) / "couplet" / "__init__.py", code / "couplet"))
        for root, target in (*sources, *((module, code) for module in modules)):
            for path in (root, *root.rglob("*")):
                if path.suffix in CODE_SUFFIXES and path.is_file():
                    copy = target / path.relative_to(root.parent)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        yield code


def _own_modules(functions: Iterable[str]) -> list[Path]:
    """Files and package folders of reward functions (``module:function``) that are in the current folder."""
    names = {name.partition(":")[0].partition(".")[0] for name in functions if ":" in name} - {"couplet"}
    places = (place for name in sorted(names) for place in (Path.cwd() / name, Path.cwd() / f"{name}.py"))
    return [place for place in places if (place.suffix == ".py" and place.is_file()) or place.is_dir()]


def _init_within(config: RayConfig, **options: Any) -> Any:
    """Run `ray.init` in a thread, because it may wait longer than its limits.

    The cluster has `ray.connect_timeout` to let this process join, then `ray.call_timeout` to take the code.
    """
    outcome: dict[str, Any] = {}
    logging.getLogger(WORKER_LOGGER).addFilter(lambda record: "SIGTERM handler is not set" not in record.getMessage())

    def init() -> None:
        try:
            outcome["context"] = ray.init(**options)
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=init, daemon=True)
    with _loopback_kept() if is_loopback(options["address"]) else nullcontext():
        thread.start()
        thread.join(config.connect_timeout)
        joined = getattr(ray._private.worker, "_global_node", None) is not None
        if joined:
            thread.join(config.call_timeout)
    if "context" in outcome:
        return outcome["context"]
    address, error = options["address"], outcome.get("error")
    if not joined:
        late = TimeoutError(f"no answer within ray.connect_timeout = {config.connect_timeout:g} s")
        raise _no_cluster(address, error or late) from error
    late = TimeoutError(f"not done within ray.call_timeout = {config.call_timeout:g} s")
    raise ConfigError(
        f"ray.address = {address!r}: the cluster answers, but this process and its code could not join it "
        f"({' '.join(str(error or late).split())}); check its versions of Python and Ray and its head node's memory "
        "and disk, or raise ray.call_timeout"
    ) from error


class NoCluster(ConfigError):
    """Nothing answers where a Ray cluster was expected."""


def _no_cluster(address: str, reason: Exception) -> NoCluster:
    first_line = (str(reason) or type(reason).__name__).splitlines()[0]
    return NoCluster(
        f"ray.address = {address!r}: no Ray cluster there ({first_line}); start one with `ray start --head`, or leave "
        "ray.address and RAY_ADDRESS unset to start a local one"
    )


def _logical_cpus(config: RunConfig | AdaptConfig) -> int:
    """CPU slots of a local Ray: at least what the run asks for, so that a laptop shares its cores among the actors."""
    wanted = sum(max(count, _most(section)) * section.cpus for count, section in _roles(config).values())
    return max(os.cpu_count() or 1, math.ceil(wanted) + SPARE_CPUS)


def _roles(config: RunConfig | AdaptConfig) -> dict[str, tuple[int, Any]]:
    """role -> (number of actors, their section)."""
    sections = {role: getattr(config, role) for role in COUNTS if hasattr(config, role)}
    return {role: (getattr(section, COUNTS[role]), section) for role, section in sections.items()}


def _most(section: Any) -> int:
    """Actors that autoscaling may start; 0 if it is off."""
    return (section.autoscale.max or 0) if hasattr(section, "autoscale") else 0


def _require_resources(config: RunConfig | AdaptConfig) -> None:
    """`ConfigError` if the cluster, or its largest node, is too small; busy resources may become free."""
    roles = _roles(config)
    for role, (_, section) in roles.items():
        _require_labels(role, getattr(section, "labels", {}))
    for resource, field in (("CPU", "cpus"), ("GPU", "gpus")):
        each = {role: getattr(section, field, 0.0) for role, (_, section) in roles.items()}
        largest = max((node["Resources"].get(resource, 0.0) for node in alive_nodes()), default=0.0)
        for role, amount in each.items():
            require(
                amount <= largest,
                f"{role}.{field}",
                amount,
                f"the largest node has {largest:g} {resource}; lower it, or add a larger node",
            )
        total = sum(count * each[role] for role, (count, _) in roles.items())
        have = ray.cluster_resources().get(resource, 0.0)
        if total > have:
            parts = " + ".join(f"{count} {role} x {each[role]:g}" for role, (count, _) in roles.items() if each[role])
            raise ConfigError(
                f"the run asks for {total:g} {resource} ({parts}), the cluster has {have:g}: lower "
                f"{', '.join(f'{role}.{COUNTS[role]}' for role in roles)} or their {field}, or add nodes"
            )


def _require_labels(role: str, labels: Mapping[str, str]) -> None:
    if not any(labels.items() <= node.get("Labels", {}).items() for node in alive_nodes()):
        written = ",".join(f"{name}={value}" for name, value in labels.items())
        raise ConfigError(
            f"{role}.labels = {written}: no node of the cluster has them; start one with `ray start --labels={written}`, or "
            f"leave {role}.labels empty"
        )
