"""Kernel calls that Python 3.11 does not wrap, through ctypes. Every failure is an OSError that names the call."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

libc = ctypes.CDLL(None, use_errno=True)

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
CAP_SETUID = 1 << 7
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
# Made once: in a forked child, making ctypes' types costs more than the call.
CAPSET_NUMBER = ctypes.c_long(CAPSET.get(platform.machine(), 0))
CAPSET_HEADER, NO_CAPABILITIES = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
CLOSE_RANGE, LAST, NO_FLAGS = ctypes.c_long(436), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0)
LINUX = sys.platform == "linux"
# fork(2) alone, without Python's own bookkeeping, which costs a third of the fork: for a process without threads.
fork = ctypes.PyDLL(None).fork


def call(name: str, function, *arguments) -> int:
    """`function(*arguments)`, which returns -1 and sets errno on failure. Raises OSError(errno, name)."""
    result = function(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def unshare(flags: int, name: str) -> None:
    call(f"unshare({name})", libc.unshare, flags)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    call(f"mount({target}, {kind or 'bind'})", libc.mount, *texts, ctypes.c_ulong(flags), options)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    number = PIVOT_ROOT[platform.machine()]
    call("pivot_root", libc.syscall, ctypes.c_long(number), os.fsencode(new), os.fsencode(old))


def prctl(option: int, value: int, name: str) -> None:
    call(f"prctl({name})", libc.prctl, option, ctypes.c_ulong(value), 0, 0, 0)


def close_from(first: int) -> None:
    """Close descriptor `first` and all above it."""
    if not LINUX or libc.syscall(CLOSE_RANGE, first, LAST, NO_FLAGS) < 0:
        os.closerange(first, 1 << 16)  # a kernel before 5.9


def drop_capabilities() -> None:
    """Empty the capability sets of this thread."""
    call("capset", libc.syscall, CAPSET_NUMBER, CAPSET_HEADER, NO_CAPABILITIES)


def open_files_as_root() -> None:
    """Let this thread, just changed from root to another user under PR_SET_KEEPCAPS, open files as root without capabilities.

    It keeps no capability. Raises OSError.
    """
    only = (ctypes.c_uint32 * 6)(CAP_SETUID, CAP_SETUID)
    call("capset", libc.syscall, CAPSET_NUMBER, CAPSET_HEADER, only)
    libc.setfsuid(0)
    if libc.setfsuid(-1) != 0:  # tells the user in force
        raise PermissionError(errno.EPERM, "setfsuid")
    drop_capabilities()


def set_no_new_privileges() -> None:
    """No later exec may gain privileges; Landlock and seccomp ask for it."""
    call("prctl(PR_SET_NO_NEW_PRIVS)", libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
