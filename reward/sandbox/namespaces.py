"""Tier `namespace`: a world of its own for the zygote, and a fresh inner one for every program.

The zygote is PID 1 of its own PID namespace, in a read-only root that holds the interpreter's libraries and nothing
else, with an empty network. Every program is PID 1 of a further PID namespace, with a fresh small tmpfs as its only
writable place and a user namespace in which it holds no capability.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable

from couplet.reward.sandbox import kernel

SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
WORLD = kernel.NEWNS | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWNET
ST_FLAGS = (
    (2, kernel.MS_NOSUID),
    (4, kernel.MS_NODEV),
    (8, kernel.MS_NOEXEC),
    (1024, kernel.MS_NOATIME),
    (2048, kernel.MS_NODIRATIME),
    (4096, kernel.MS_RELATIME),
)
SMALL_FOLDER = "size=1m,nr_inodes=1024,mode=755"  # of a folder in memory that holds mount points
FIRST_SPARE_UID, SPARE_UIDS = 61_184, 4_096


def library_paths(extra: tuple[str, ...]) -> list[str]:
    """Folders a program may read: the interpreter's libraries, the system's shared libraries, allowed packages.

    What else lies in a package folder below them (`package_folders`) is not meant.
    """
    interpreter = [os.path.dirname(os.__file__), *sys.path, os.path.join(sys.base_prefix, "lib")]
    found = (*SYSTEM_LIBRARIES, *interpreter, *_loaded_libraries(), *extra)
    named = [path for path in found if path.startswith("/")]
    paths = {path for name in named for path in (name, os.path.realpath(name)) if os.path.exists(path)}
    hidden = package_folders(paths)
    kept: list[str] = []
    for path in sorted(paths, key=len):
        if os.path.basename(path) in PACKAGE_FOLDERS or path in hidden:
            continue
        if _nearest(path, kept) <= _nearest(path, hidden):
            kept.append(path)
    return kept


def _nearest(path: str, folders: list[str]) -> int:
    """Length of the longest of `folders` that contains `path`; 0 if none does."""
    return max((len(folder) for folder in folders if path.startswith(folder + "/")), default=0)


def package_folders(paths: Iterable[str]) -> list[str]:
    """Folders of installed packages in `paths` or in a folder of them: the interpreter's own, the distribution's."""
    roots = [os.path.realpath(path) for path in paths if os.path.isdir(path)]
    found = set()
    for root in roots:
        holders = [root]
        with contextlib.suppress(PermissionError), os.scandir(root) as entries:
            holders += [entry.path for entry in entries if entry.is_dir()]
        for name in PACKAGE_FOLDERS:
            found |= {os.path.realpath(f"{holder}/{name}") for holder in holders if os.path.isdir(f"{holder}/{name}")}
    return sorted(folder for folder in found if _nearest(folder, roots))


def _loaded_libraries() -> set[str]:
    """Folders of the shared libraries this process has loaded, wherever this system keeps them, packages' apart."""
    try:
        with open("/proc/self/maps") as lines:
            files = {line.split(maxsplit=5)[5].strip() for line in lines if line.count("/") and ".so" in line}
    except OSError:
        return set()
    return {os.path.dirname(file) for file in files if not set(file.split("/")) & set(PACKAGE_FOLDERS)}


def map_identity(proc: int, uid: int, gid: int) -> None:
    """Map this user namespace's one user and group to themselves. `proc`: a descriptor of /proc."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        try:
            target = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
            try:
                os.write(target, text.encode())
            finally:
                os.close(target)
        except OSError as error:
            raise OSError(error.errno, f"write /proc/self/{name}: {error.strerror}") from None


def enter_world() -> None:
    """Leave the host's mount, IPC, UTS and network namespaces; an ordinary user through a user namespace."""
    uid, gid = os.getuid(), os.getgid()
    try:
        kernel.unshare(WORLD, "mount, ipc, uts, net")
    except PermissionError:
        kernel.unshare(kernel.NEWUSER, "user")
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        map_identity(proc, uid, gid)
        os.close(proc)
        kernel.unshare(WORLD, "mount, ipc, uts, net")


def _bind(path: str, link: str | None, source: int, root: str) -> None:
    """Show `path` read-only under `root`; `source` is a descriptor of it, `link` its target if it is a symlink."""
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if link is not None:
        if not os.path.lexists(target):
            os.symlink(link, target)
        return
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(f"/proc/self/fd/{source}", target, None, kernel.MS_BIND | kernel.MS_REC)
    seen = os.statvfs(target).f_flag
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    if not path.startswith("/dev/"):
        flags |= kernel.MS_NODEV
    for bit, flag in ST_FLAGS:  # flags that came with the mount are locked in a user namespace: keep them
        flags |= flag if seen & bit else 0
    kernel.mount(None, target, None, flags)


def build_root(paths: list[str]) -> None:
    """Make a read-only root that holds `paths`, and enter it; nothing of the old root stays reachable.

    A package folder shows only those of its packages that `paths` names.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # Found and opened before the new root covers /tmp, where an interpreter may be.
    hidden = package_folders(paths)
    sources = []
    for path in (*paths, *filter(os.path.exists, DEVICES)):
        link = os.readlink(path) if os.path.islink(path) else None
        sources.append((path, link, os.open(path, os.O_PATH)))
    root = "/tmp"
    kernel.mount("sandbox", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, SMALL_FOLDER)
    for path, link, source in sources:
        if not _nearest(path, hidden):
            _bind(path, link, source, root)
    for folder in hidden:
        kernel.mount("packages", root + folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, SMALL_FOLDER)
    for path, link, source in sources:
        if _nearest(path, hidden):
            _bind(path, link, source, root)
        os.close(source)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    for folder in hidden:
        kernel.mount(None, root + folder, None, flags)
    os.makedirs(root + "/tmp", exist_ok=True)
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.call("umount2(old root)", kernel.libc.umount2, b".", kernel.MNT_DETACH)
    os.chdir("/")
    kernel.mount(None, "/", None, flags)


def settle(paths: list[str]) -> None:
    """Own root, no host user, no host name; the next child is PID 1 of a PID namespace this user may manage."""
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    kernel.call("sethostname", kernel.libc.sethostname, b"sandbox", 7)
    build_root(paths)
    if os.getuid() == 0 and _maps_more_than_one_user(proc):
        uid = become_spare_user()
        kernel.unshare(kernel.NEWUSER, "user")
        map_identity(proc, uid, uid)
    os.close(proc)
    kernel.unshare(kernel.NEWPID, "pid")


def _maps_more_than_one_user(proc: int) -> bool:
    with open(os.open("self/uid_map", os.O_RDONLY, dir_fd=proc)) as lines:
        return sum(int(line.split()[2]) for line in lines) > 1


def become_spare_user(files_of_root: bool = False) -> int:
    """Change from root to a user id that owns nothing; returns it. The process must stay dumpable to map its ids later.

    `files_of_root`: files are still opened as their owner root would, without its capabilities, since the interpreter
        lies
    where only root comes. In all else, in the number of its threads above all, the process is the other user's.
    """
    uid = FIRST_SPARE_UID + time.monotonic_ns() // 1000 % SPARE_UIDS
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    if files_of_root:
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1, "PR_SET_KEEPCAPS")
    os.setresuid(uid, uid, uid)
    if files_of_root:
        kernel.open_files_as_root()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1, "PR_SET_DUMPABLE")
    return uid


def program_steps(scratch_mb: int) -> list[kernel.Step]:
    """For the forked child of one program: a scratch folder that dies with it, and no capability left."""
    options = f"size={scratch_mb}m,nr_inodes=256,mode=1777"
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    return [
        kernel.unsharing(kernel.NEWNS, "mount"),
        kernel.mounting("scratch", "/tmp", "tmpfs", flags, options),
        ("chdir(/tmp)", kernel.libc.chdir, (b"/tmp",)),
        kernel.unsharing(kernel.NEWUSER, "user"),
        kernel.holding(),
    ]


def readable_by_others(paths: list[str]) -> bool:
    """Whether a user without rights can reach all of `paths` (an interpreter may live below a private home)."""
    for path in paths:
        folder = os.path.realpath(path)
        while folder != "/":
            if not os.stat(folder).st_mode & 0o001 and os.path.isdir(folder):
                return False
            folder = os.path.dirname(folder)
    return True
