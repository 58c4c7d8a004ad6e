"""The system-call filter, run instruction by instruction for both machine types."""

import errno
import struct

import pytest

from couplet.reward.sandbox.seccomp import ALLOW, AUDIT_ARCH, KILL, Filter, build
from couplet.reward.sandbox.syscalls import ALWAYS, CHECKED, SCRATCH

REFUSE, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
PID = 4321
# Calls of no table, by number on each machine.
FORBIDDEN = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "process_vm_readv": (310, 270),
    "setrlimit": (160, 164),
    "shmget": (29, 194),
    "sendmsg": (46, 211),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "setuid": (105, 146),
    "setpriority": (141, 140),
}


def filter_of(scratch: bool, machine: str) -> bytes:
    """The program for the process `PID`."""
    made = Filter(build(scratch, scratch, machine))
    made.name_process(PID)
    return bytes(made.code)


def verdict(program: bytes, number: int, *arguments: int, machine: str = "x86_64", arch: int | None = None) -> int:
    """What the kernel would answer: the program's return value for one call."""
    code = AUDIT_ARCH[machine][1] if arch is None else arch
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("=iIQ6Q", number, code, 0, *padded)
    accumulator, at = 0, 0
    while True:
        operation, true, false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            taken = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            at += true if taken else false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request):
    return request.param


@pytest.fixture
def ask(machine):
    column = AUDIT_ARCH[machine][0]

    def ask(scratch, table, name, *arguments):
        program = filter_of(scratch, machine)
        number = table[name][column]
        return None if number is None else verdict(program, number, *arguments, machine=machine)

    return ask


def test_listed_calls_are_allowed_and_scratch_calls_only_with_a_scratch_folder(ask):
    for name in ALWAYS:
        assert ask(False, ALWAYS, name) in (ALLOW, None), name
        assert ask(True, ALWAYS, name) in (ALLOW, None), name
    for name in SCRATCH:
        assert ask(True, SCRATCH, name) in (ALLOW, None), name
        assert ask(False, SCRATCH, name) in (REFUSE, None), name


def test_every_other_number_is_refused(machine):
    column = AUDIT_ARCH[machine][0]
    listed = {numbers[column] for table in (ALWAYS, SCRATCH, CHECKED) for numbers in table.values()}
    program = build(True, True, machine)
    for number in range(2000):
        if number not in listed:
            assert verdict(program, number, machine=machine) == REFUSE, number
    for numbers in FORBIDDEN.values():
        assert numbers[column] not in listed
    assert verdict(program, 0x40000000 + 41, machine=machine) == REFUSE


def test_another_architecture_is_killed(machine):
    assert verdict(build(True, True, machine), 1, machine=machine, arch=0x40000003) == KILL


def test_calls_are_allowed_by_their_arguments(ask):
    thread, fork, new_user = 0x3D0F00, 0x1200011, 0x10000000 | 0x3D0F00
    cases = [
        ("clone", (thread,), ALLOW),
        ("clone", (fork,), REFUSE),
        ("clone", (new_user,), REFUSE),
        ("clone3", (), ABSENT),
        ("openat2", (), ABSENT),
        ("kill", (PID, 9), ALLOW),
        ("kill", (0xFFFFFFFF, 9), REFUSE),
        ("kill", (0, 9), REFUSE),
        ("kill", (1, 9), REFUSE),
        ("tgkill", (PID, PID, 6), ALLOW),
        ("tgkill", (PID + 1, PID + 1, 6), REFUSE),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), REFUSE),
        ("fcntl", (0, 1030), ALLOW),
        ("fcntl", (0, 5), REFUSE),
        ("fcntl", (0, 8), REFUSE),
        ("fcntl", (0, 10), REFUSE),
        ("prlimit64", (0, 9, 0, 0x7FFF0000), ALLOW),
        ("prlimit64", (0, 9, 0x7FFF0000), REFUSE),
        ("prlimit64", (0, 9, 0x7FFF00000000), REFUSE),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), REFUSE),
        ("socketpair", (1, 1 | 0x80000), ALLOW),
        ("socketpair", (1, 2), REFUSE),
        ("socketpair", (2, 1), REFUSE),
        ("sendto", (3, 0, 1, 0x4000), ALLOW),
        ("sendto", (3, 0, 1, 1), REFUSE),
        ("sendto", (3, 0, 1, 0x4001), REFUSE),
    ]
    for name, arguments, expected in cases:
        assert ask(True, CHECKED, name, *arguments) == expected, (name, arguments)


def test_files_open_for_writing_only_with_a_scratch_folder(ask):
    for flags, expected in (
        (0, ALLOW),
        (0o2000000, ALLOW),
        (1, REFUSE),
        (2, REFUSE),
        (0o100, REFUSE),
        (0o1000, REFUSE),
    ):
        assert ask(False, CHECKED, "openat", 0, 0, flags) == expected
        assert ask(True, CHECKED, "openat", 0, 0, flags) == ALLOW


def test_an_unknown_machine_is_refused():
    with pytest.raises(OSError, match="no system-call table for riscv64"):
        build(True, True, "riscv64")
