"""The sandbox as an ordinary user: the attack table and the worker's laws again, without any privilege."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
UID = 54_321

# Shows the interpreter and the project to everyone (they may live below a private home), then gives up all rights.
AS_ORDINARY_USER = """
import os, sys
sys.path.insert(0, {project!r})
from couplet.reward.sandbox import kernel
needed = [os.path.realpath(path) for path in {needed!r}]
kernel.unshare(kernel.NEWNS, "mount")
kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
stash = {stash!r}
for index, path in enumerate(needed):
    os.mkdir(f"{{stash}}/{{index}}")
    kernel.mount(path, f"{{stash}}/{{index}}", None, kernel.MS_BIND | kernel.MS_REC)
covered = set()
for path in needed:
    parts = path.split("/")
    for depth in range(2, len(parts)):
        folder = "/".join(parts[:depth])
        if not os.stat(folder).st_mode & 1:
            kernel.mount("none", folder, "tmpfs", 0, "mode=755")
            covered.add(folder)
            break
for index, path in enumerate(needed):
    if any(path.startswith(folder + "/") for folder in covered):
        os.makedirs(path)
        kernel.mount(f"{{stash}}/{{index}}", path, None, kernel.MS_BIND | kernel.MS_REC)
os.setgroups([])
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
os.chdir({project!r})
os.execve(sys.executable, [sys.executable, *sys.argv[1:]], {{"PATH": os.environ["PATH"], "HOME": {stash!r}}})
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", ["test_attacks.py", "test_worker.py"])
def test_the_same_laws_hold_for_an_ordinary_user(suite):
    if os.getuid() != 0:
        pytest.skip("the other tests of this package already run as an ordinary user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        stash, base = Path(folder, "stash"), Path(folder, "base")
        for path in (stash, base):
            path.mkdir()
            os.chown(path, UID, UID)
        run_as_ordinary_user(suite, stash, base)


def run_as_ordinary_user(suite: str, stash: Path, base: Path) -> None:
    script = AS_ORDINARY_USER.format(
        project=str(PROJECT), needed=[sys.prefix, sys.base_prefix, str(PROJECT)], stash=str(stash), uid=UID
    )
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={base}/t", f"tests/reward/{suite}"]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-500:]
