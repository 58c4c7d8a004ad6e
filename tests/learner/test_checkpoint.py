import logging
import os
import shutil

import pytest

from couplet.learner.checkpoint import CheckpointError, latest_checkpoint, save_checkpoint


def writer(text):
    def write(folder):
        (folder / "engine").mkdir()
        (folder / "engine" / "weights").write_text(text)

    return write


def test_the_newest_checkpoint_is_found_with_its_state(tmp_path):
    root = tmp_path / "checkpoints"
    assert latest_checkpoint(root) is None
    save_checkpoint(root, 3, writer("three"), {"step": 3})
    saved = save_checkpoint(root, 12, writer("twelve"), {"step": 12})
    folder, state = latest_checkpoint(root)
    assert folder == saved and state == {"step": 12}
    assert (folder / "engine" / "weights").read_text() == "twelve"


def test_only_the_newest_are_kept(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, step, writer(str(step)), {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("damage", ["unmarked", "truncated", "missing", "mark"])
def test_a_torn_checkpoint_is_skipped_with_a_message(tmp_path, caplog, damage):
    whole = save_checkpoint(tmp_path, 1, writer("one"), {"step": 1})
    torn = save_checkpoint(tmp_path, 2, writer("two"), {"step": 2})
    if damage == "unmarked":
        (torn / "COMPLETE").unlink()
    elif damage == "truncated":
        (torn / "engine" / "weights").write_text("t")
    elif damage == "missing":
        (torn / "engine" / "weights").unlink()
    else:
        (torn / "COMPLETE").write_text('{"engine')
    with caplog.at_level(logging.WARNING):
        folder, state = latest_checkpoint(tmp_path)
    assert folder == whole and state == {"step": 1}
    assert "step-00000002 is skipped" in caplog.text


def test_a_failed_write_leaves_what_was_there(tmp_path):
    save_checkpoint(tmp_path, 1, writer("one"), {"step": 1})

    def failing(folder):
        (folder / "half").write_text("half")
        raise KeyError("lost")

    with pytest.raises(KeyError):
        save_checkpoint(tmp_path, 2, failing, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path)[1] == {"step": 1}


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    save_checkpoint(tmp_path, 1, writer("one"), {"step": 1})

    def full(folder):
        os.symlink("/dev/full", folder / "weights")  # every write fails as on a full disk
        with open(folder / "weights", "w") as file:
            file.write("x" * 10_000)

    with pytest.raises(CheckpointError, match=r"no space left in .* step 2 .* lower checkpoint.keep"):
        save_checkpoint(tmp_path, 2, full, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path)[1] == {"step": 1}


def test_a_disk_too_full_for_another_checkpoint_is_seen_before_writing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, writer("x" * 1000), {"step": 1})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=900))
    with pytest.raises(CheckpointError, match="no space left"):
        save_checkpoint(tmp_path, 2, lambda folder: pytest.fail("began to write"), {})
    assert latest_checkpoint(tmp_path)[1] == {"step": 1}


def test_a_full_disk_behind_a_library_error_is_recognised(tmp_path):
    def full(folder):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("PytorchStreamWriter failed writing file") from error

    with pytest.raises(CheckpointError, match="no space left"):
        save_checkpoint(tmp_path, 1, full, {})


def test_a_step_may_be_written_again(tmp_path):
    save_checkpoint(tmp_path, 1, writer("first"), {"try": 1})
    folder = save_checkpoint(tmp_path, 1, writer("second"), {"try": 2})
    assert (folder / "engine" / "weights").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_leftovers_of_a_killed_write_do_not_disturb(tmp_path):
    (tmp_path / ".writing-step-00000001").mkdir()
    (tmp_path / ".writing-step-00000001" / "old").write_text("old")
    folder = save_checkpoint(tmp_path, 1, writer("one"), {})
    assert not (folder / "old").exists()


def test_what_a_killed_run_left_behind_is_removed(tmp_path):
    save_checkpoint(tmp_path, 1, writer("one"), {"step": 1})

    def killed(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, killed, {})
    (tmp_path / "step-00000001").rename(tmp_path / ".replaced-step-00000001")  # killed between the two renames
    save_checkpoint(tmp_path, 3, writer("three"), {"step": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
