"""The system calls that a program may make, by name (`syscalls.json`), with their numbers: (x86-64, aarch64).

A number is None if the machine has no such call. Whatever is not named is refused: execve, fork, vfork, socket, connect,
bind, ptrace, mount, unshare, setns, bpf, io_uring, keyctl, memfd_create, perf_event_open, userfaultfd,
process_vm_readv, shmget, setrlimit and the rest.
Source: Linux `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`.
"""

from __future__ import annotations

import json
from pathlib import Path

Calls = dict[str, tuple[int | None, int | None]]
_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

ALWAYS: Calls = {name: tuple(numbers) for name, numbers in _TABLE["always"].items()}
"""Allowed whatever the arguments."""

SCRATCH: Calls = {name: tuple(numbers) for name, numbers in _TABLE["scratch"].items()}
"""Allowed if the program has its own scratch folder (tier `namespace`): elsewhere nothing is writable."""

CHECKED: Calls = {name: tuple(numbers) for name, numbers in _TABLE["checked"].items()}
"""Allowed by their arguments (`reward.sandbox.seccomp`)."""
