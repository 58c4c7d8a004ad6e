"""The system-call filter of a program: an allow-list as classic BPF, for x86-64 and aarch64.

A call off the list fails with EPERM, so a program gets a `PermissionError` instead of a network or a shell. Processes
cannot be forked in any tier (threads can be started): nothing can outlive the program or spread its work over more
address spaces than the one that is limited.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from couplet.reward.sandbox.kernel import MACHINE, Step, libc, no_new_privileges
from couplet.reward.sandbox.syscalls import ALWAYS, CHECKED, SCRATCH

ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE = 0x00050000 | errno.EPERM
ABSENT = 0x00050000 | errno.ENOSYS  # glibc then falls back to an older call whose arguments can be read
AUDIT_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

CLONE_THREAD, CLONE_NEW_ANY = 0x00010000, 0x7E020080
PR_SET_NAME, PR_GET_NAME = 15, 16
# Device questions a file object asks (TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX); never TIOCSTI.
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# F_DUPFD to F_SETFL, F_SETLK, F_SETLKW and F_DUPFD_CLOEXEC; never F_GETLK, which shows the locks of other programs on
# files that all can read, and never F_SETOWN and F_SETSIG, which send signals without kill().
FCNTLS = (0, 1, 2, 3, 4, 6, 7, 1030)
PLAIN_SEND = 0x4040  # MSG_DONTWAIT and MSG_NOSIGNAL; never out-of-band data, which arrive beside the answers
WRITE_FLAGS = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
SELF = 0x5E1F5E1F  # stands for the process's own id, the only one it may signal
AF_UNIX, SOCK_STREAM, SOCK_TYPE = 1, 1, 0xF

LOAD, AND = 0x20, 0x54
EQUAL, ABOVE, AT_LEAST, JUMP_SET, RETURN = 0x15, 0x25, 0x35, 0x45, 0x06


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def _argument(index: int, high: bool = False) -> bytes:
    return _op(LOAD, 16 + 8 * index + 4 * high)


def _one_of(index: int, values: tuple[int, ...], mask: int = 0) -> list[bytes]:
    """Allow if argument `index` (under `mask`) is one of `values`; else reject."""
    program = [_argument(index)] + ([_op(AND, mask)] if mask else [])
    for value in values:
        program += [_op(EQUAL, value, 0, 1), _op(RETURN, ALLOW)]
    return [*program, _op(RETURN, REFUSE)]


def _without(index: int, bits: int) -> list[bytes]:
    """Allow if argument `index` has none of `bits`; else reject."""
    return [_argument(index), _op(JUMP_SET, bits, 0, 1), _op(RETURN, REFUSE), _op(RETURN, ALLOW)]


def _rules(files_confined: bool) -> dict[str, list[bytes]]:
    """The checked calls: name -> program that ends in a verdict."""
    anything = [_op(RETURN, ALLOW)]
    stream_pair = [_argument(0), _op(EQUAL, AF_UNIX, 1, 0), _op(RETURN, REFUSE), *_one_of(1, (SOCK_STREAM,), SOCK_TYPE)]
    new_limit = [_argument(2), _op(EQUAL, 0, 1, 0), _op(RETURN, REFUSE), _argument(2, high=True)]
    return {
        "open": anything if files_confined else _without(1, WRITE_FLAGS),
        "openat": anything if files_confined else _without(2, WRITE_FLAGS),
        "fcntl": _one_of(1, FCNTLS),
        "sendto": _without(3, ~PLAIN_SEND & 0xFFFFFFFF),
        "ioctl": _one_of(1, IOCTLS),
        "prctl": _one_of(0, (PR_SET_NAME, PR_GET_NAME)),
        "prlimit64": [*new_limit, _op(EQUAL, 0, 1, 0), _op(RETURN, REFUSE), _op(RETURN, ALLOW)],
        "clone": [
            _argument(0),
            _op(JUMP_SET, CLONE_NEW_ANY, 0, 1),
            _op(RETURN, REFUSE),
            _op(JUMP_SET, CLONE_THREAD, 1, 0),
            _op(RETURN, REFUSE),
            _op(RETURN, ALLOW),
        ],
        "clone3": [_op(RETURN, ABSENT)],
        "openat2": [_op(RETURN, ABSENT)],
        "kill": _one_of(0, (SELF,)),
        "tgkill": _one_of(0, (SELF,)),
        "socketpair": stream_pair,
    }


def build(scratch: bool, files_confined: bool, machine: str | None = None) -> bytes:
    """The filter's program, in which `SELF` stands for the process it will be for (see `Filter`).

    `scratch`: the program has a folder of its own to write in. `files_confined`: something else decides which files may
    be opened for writing, so that the filter need not refuse them all.

    Raises OSError(ENOSYS) on a machine type without a table.
    """
    machine = machine or MACHINE
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"seccomp: no system-call table for {machine}")
    column, arch = AUDIT_ARCH[machine]
    program = [_op(LOAD, 4), _op(EQUAL, arch, 1, 0), _op(RETURN, KILL), _op(LOAD, 0)]
    for name, rule in _rules(files_confined).items():
        number = CHECKED[name][column]
        if number is not None:
            program += [_op(EQUAL, number, 0, len(rule)), *rule]
    named = [*ALWAYS.values(), *(SCRATCH.values() if scratch else ())]
    allowed = sorted(numbers[column] for numbers in named if numbers[column] is not None)
    return b"".join([*program, *_search(_ranges(allowed))])


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _search(runs: list[tuple[int, int]]) -> list[bytes]:
    """Binary search of the loaded number: the kernel walks the program for every call number when it is installed."""
    if len(runs) == 1:
        first, last = runs[0]
        return [_op(AT_LEAST, first, 0, 2), _op(ABOVE, last, 1, 0), _op(RETURN, ALLOW), _op(RETURN, REFUSE)]
    middle = len(runs) // 2
    upper, lower = _search(runs[middle:]), _search(runs[:middle])
    return [_op(AT_LEAST, runs[middle][0], 0, len(upper)), *upper, *lower]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


PR_SET_SECCOMP, MODE_FILTER = 22, 2


class Filter:
    """A filter in memory (`code`): name the process it is for, then take its `steps`.

    They confine the thread that takes them, and all it starts, for good.
    """

    def __init__(self, program: bytes) -> None:
        self.code = (ctypes.c_uint8 * len(program)).from_buffer_copy(program)
        words = enumerate(struct.unpack(f"={len(program) // 4}I", program))
        self.own = [ctypes.c_uint32.from_buffer(self.code, 4 * at) for at, word in words if word == SELF]
        self.chain = _Program(len(program) // 8, ctypes.addressof(self.code))
        arguments = (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(self.chain), 0, 0)
        self.steps: list[Step] = [no_new_privileges(), ("prctl(PR_SET_SECCOMP)", libc.prctl, arguments)]

    def name_process(self, pid: int) -> None:
        """`pid` is the one process that may be signalled."""
        for word in self.own:
            word.value = pid
