"""Kernel calls that Python 3.11 does not wrap, through ctypes. Every failure is an OSError that names the call.

A `Step` is a call with its arguments made ready. A forked child shares its memory with the zygote until it writes, and
Python writes wherever it looks (reference counts, caches): a child that has only steps to take copies far fewer pages.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine

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
CLOSE_RANGE, LAST, NO_FLAGS = ctypes.c_long(436), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(0)
LINUX = sys.platform == "linux"
# fork(2) alone, without Python's own bookkeeping, which costs a third of the fork: for a process without threads.
fork = ctypes.PyDLL(None, use_errno=True).fork
Step = tuple[str, Callable[..., int], tuple[Any, ...]]  # the call's name, what makes it, its arguments


def call(name: str, function, *arguments) -> int:
    """`function(*arguments)`, which returns -1 and sets errno on failure. Raises OSError(errno, name)."""
    result = function(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def take(steps: Iterable[Step]) -> None:
    """Make the calls, in order. Raises OSError naming the first that fails."""
    for name, function, arguments in steps:
        call(name, function, *arguments)


def unsharing(flags: int, name: str) -> Step:
    """unshare(2)."""
    return f"unshare({name})", libc.unshare, (flags,)


def unshare(flags: int, name: str) -> None:
    take([unsharing(flags, name)])


def mounting(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> Step:
    """mount(2)."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    return f"mount({target}, {kind or 'bind'})", libc.mount, (*texts, ctypes.c_ulong(flags), options)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    take([mounting(source, target, kind, flags, data)])


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    number = PIVOT_ROOT[MACHINE]
    call("pivot_root", libc.syscall, ctypes.c_long(number), os.fsencode(new), os.fsencode(old))


def setting(option: int, value: int, name: str) -> Step:
    """prctl(2)."""
    return f"prctl({name})", libc.prctl, (option, ctypes.c_ulong(value), 0, 0, 0)


def prctl(option: int, value: int, name: str) -> None:
    take([setting(option, value, name)])


def close_from(first: int) -> None:
    """Close descriptor `first` and all above it."""
    if not LINUX or libc.syscall(CLOSE_RANGE, first, LAST, NO_FLAGS) < 0:
        os.closerange(first, 1 << 16)  # a kernel before 5.9


def holding(*capabilities: int) -> Step:
    """Leave this thread the capability sets (effective, permitted) of these two words, or none."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*capabilities)
    return "capset", libc.syscall, (ctypes.c_long(CAPSET.get(MACHINE, 0)), header, sets)


def open_files_as_root() -> None:
    """Let this thread, just changed from root to another user under PR_SET_KEEPCAPS, open files as root without capabilities.

    It keeps no capability. Raises OSError.
    """
    take([holding(CAP_SETUID, CAP_SETUID)])
    libc.setfsuid(0)
    if libc.setfsuid(-1) != 0:  # tells the user in force
        raise PermissionError(errno.EPERM, "setfsuid")
    take([holding()])


def no_new_privileges() -> Step:
    """No later exec may gain privileges; Landlock and seccomp ask for it."""
    return setting(PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")
