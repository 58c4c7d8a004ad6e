"""The local sandbox of one worker: a tier that holds on this machine, its zygote, and the zygote's restarts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from pathlib import Path

from couplet.configs.schema import ConfigError, SandboxConfig
from couplet.reward.sandbox import canaries
from couplet.reward.sandbox.faults import SandboxFault, TierUnavailable
from couplet.reward.sandbox.handle import Child, Meter
from couplet.reward.sandbox.process import ZygoteProcess

AUTOMATIC = ("namespace", "landlock", "seccomp")
REMEDIES = {
    "namespace": "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in Docker a seccomp profile that allows unshare and mount)",
    "landlock": "boot a kernel >= 5.13 with landlock in its lsm= list",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER on x86-64 or aarch64",
    "rlimits": "check that the interpreter starts with an empty environment",
}
OPEN = {
    "seccomp": "programs can read every file this user can read",
    "rlimits": "programs can read, write, connect and start processes as this user",
}
THREADS = (
    "sandbox tier %s: only memory bounds a program's threads here; sandbox.processes would count this user's others"
)
log = logging.getLogger(__name__)


def package_paths(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Folders of the packages programs may import, and of their metadata, from which some read their version.

    Raises `ConfigError` for one that is not installed.
    """
    if not packages:
        return ()
    paths: list[str] = []
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or not (spec.origin or spec.submodule_search_locations):
            raise ConfigError(f"sandbox.packages = {packages!r}: {name!r} is not installed")
        for folder in spec.submodule_search_locations or [str(spec.origin)]:
            paths += [path for path in (folder, f"{folder}.libs") if os.path.exists(path)]
    return (*paths, *metadata_paths(packages))


def metadata_paths(packages: tuple[str, ...]) -> list[str]:
    """Folders of the metadata of the distributions that bring `packages`."""
    owners = importlib.metadata.packages_distributions()
    names = {name for package in packages for name in owners.get(package.partition(".")[0], ())}
    files = [file for name in names for file in importlib.metadata.distribution(name).files or ()]
    return sorted({str(Path(file.locate()).parent) for file in files if file.match("*.dist-info/METADATA")})


class LocalSandbox:
    """Forks confined children, restarting the zygote at the same tier when it dies.

    Raises `TierUnavailable` at construction when the wanted tier, or with `auto` every tier, fails its canaries.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.packages = package_paths(config.packages)
        self.restarts = 0
        self.meter = Meter()
        self.tier, self.zygote = self._choose()
        if self.tier in OPEN:
            log.warning("sandbox tier %s: %s", self.tier, OPEN[self.tier])
        if not self.zygote.threads_limited:
            log.warning(THREADS, self.tier)

    def _choose(self) -> tuple[str, ZygoteProcess]:
        wanted: tuple[str, ...] = AUTOMATIC if self.config.tier == "auto" else (self.config.tier,)
        if self.config.tier == "auto" and self.config.allow_unsafe:
            wanted = (*AUTOMATIC, "rlimits")
        failures = []
        for tier in wanted:
            try:
                return tier, self._start(tier, check=tier != "rlimits")
            except SandboxFault as fault:
                failures.append(f"{fault.detail}; remedy: {REMEDIES[tier]}")
        unsafe = "" if "rlimits" in wanted else "\nWithout any wall: sandbox.tier: rlimits, sandbox.allow_unsafe: true"
        raise TierUnavailable("start", "no sandbox tier holds here:\n" + "\n".join(failures) + unsafe)

    def _start(self, tier: str, check: bool) -> ZygoteProcess:
        zygote = ZygoteProcess(tier, self.config, self.packages)
        try:
            if check:
                canaries.hold(zygote, self.config)
        except BaseException:
            zygote.close()
            raise
        return zygote

    def spawn(self, kind: str, cpu_limit: int, ahead: bytes = b"") -> Child:
        """A confined child for a `program` or a `judge`, to which the frames `ahead` go. Raises `SandboxFault`."""
        child = self.zygote.spawn(kind, cpu_limit, ahead)
        child.meter = self.meter
        return child

    def alive(self) -> bool:
        """Whether the zygote still answers."""
        return self.zygote.alive()

    def restart(self) -> None:
        """Replace the zygote by a fresh one of the same tier. Raises `SandboxFault`: the tier is never lowered."""
        self.zygote.close()
        self.restarts += 1
        self.zygote = ZygoteProcess(self.tier, self.config, self.packages)

    def close(self) -> None:
        """End the zygote and everything it forked."""
        self.zygote.close()
