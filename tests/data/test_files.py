"""A file appears whole or not at all; a disk that refuses it is one clear error."""

import errno
import os
import subprocess
import sys

import pytest

from couplet.configs.schema import ConfigError
from couplet.data.files import replacing, scratch, write_json, write_text, writing


def test_a_file_replaces_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"é": 1})
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text(encoding="utf-8") == '{\n "é": 1\n}\n'
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["a.json"]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "code, message",
    [
        (errno.ENOSPC, "cannot write F: No space left on device; free some space and resume"),
        (errno.EDQUOT, "cannot write F: Disk quota exceeded; free some space and resume"),
        (errno.EACCES, "cannot write F: Permission denied; check the folder and resume"),
    ],
)
def test_the_error_names_the_file_and_the_remedy(code, message, tmp_path):
    with pytest.raises(ConfigError) as caught, writing(tmp_path / "f", "check the folder", "resume"):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == message.replace("F", str(tmp_path / "f"), 1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file/a\.txt: Not a directory; name another --out"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os; from couplet.data.files import scratch; held = scratch('x'); held.__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (left,) = tmp_path.iterdir()
    with scratch("x") as recent, scratch("y"):
        assert left.exists()  # it may belong to a process that is not in sight
        os.utime(left, (0, 0))
        with scratch("x") as third:
            assert third.name.startswith(f"couplet-x-{os.getpid()}-")
            assert recent.exists() and not left.exists()
    assert list(tmp_path.iterdir()) == []
