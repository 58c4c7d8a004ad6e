"""Tier `landlock`: file access confined to the interpreter's libraries if namespaces are not available.

Nothing is writable in this tier. Rights apply to everything below a folder, so of a folder with installed packages only
the other entries are allowed. Metadata calls that Landlock does not govern (chmod, utime, ...) are refused by the
system-call filter. Source: Linux `Documentation/userspace-api/landlock.rst`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from importlib.machinery import FileFinder

from couplet.reward.sandbox.kernel import call, libc, no_new_privileges, take
from couplet.reward.sandbox.namespaces import package_folders

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on x86-64 and aarch64
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
# Access rights and scopes each version of the interface knows, so that all of them can be denied.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
NET_RIGHTS, SCOPES = 3, 3
RULE_PATH_BENEATH = 1


def version() -> int:
    """The kernel's Landlock version. Raises OSError if there is none (ENOSYS) or it is off (EOPNOTSUPP)."""
    return call("landlock_create_ruleset", libc.syscall, ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), 1)


def confine(readable: list[str], devices: tuple[str, ...]) -> None:
    """Let this process and all it forks read below `readable`, use `devices`, and touch no other file, ever.

    Of a package folder below them only what `readable` names is allowed.
    """
    hidden = package_folders(readable)
    _keep_listings(hidden)
    known = version()
    rights = FILE_RIGHTS[min(known, 5)]
    attributes = struct.pack("=QQQ", rights, NET_RIGHTS if known >= 4 else 0, SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = call(
        "landlock_create_ruleset", libc.syscall, ctypes.c_long(CREATE_RULESET), attributes, ctypes.c_size_t(size), 0
    )
    for path in [part for folder in readable for part in _without(os.path.realpath(folder), hidden)]:
        _allow(ruleset, path, READ_FILE | (READ_DIR if os.path.isdir(path) else 0))
    for path in filter(os.path.exists, devices):
        _allow(ruleset, path, READ_FILE | WRITE_FILE)
    take([no_new_privileges()])
    call("landlock_restrict_self", libc.syscall, ctypes.c_long(RESTRICT_SELF), ruleset, 0)
    os.close(ruleset)


def _without(path: str, hidden: list[str]) -> Iterator[str]:
    """`path`; if a folder of `hidden` is below it, the entries that together are `path` without that folder."""
    if path in hidden:
        return
    if not any(folder.startswith(path + "/") for folder in hidden):
        yield path
        return
    try:
        entries = [entry.path for entry in os.scandir(path) if not entry.is_symlink()]
    except PermissionError:
        return
    for entry in entries:
        yield from _without(entry, hidden)


def _keep_listings(hidden: list[str]) -> None:
    """Import folders that will not be listed as a whole keep the listing of now: without it nothing is found in them."""
    for name, finder in sys.path_importer_cache.items():
        folder = os.path.realpath(name) + "/"
        if isinstance(finder, FileFinder) and any(path.startswith(folder) for path in hidden):
            vars(type(finder))["_fill_cache"](finder)
            vars(finder)["_fill_cache"] = lambda: None


def _allow(ruleset: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, target)
    call(f"landlock_add_rule({path})", libc.syscall, ctypes.c_long(ADD_RULE), ruleset, RULE_PATH_BENEATH, rule, 0)
    os.close(target)
