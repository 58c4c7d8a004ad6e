"""`analyze`: the settings it takes over, and what it looks at before it starts."""

from __future__ import annotations

from couplet.evaluation import decoding


def test_the_policys_subject_has_the_rows_of_its_recipe(run_folder, tmp_path, command, monkeypatch):
    seen = []
    original = decoding.sample

    def sample(*arguments, microbatch_rows=None, **options):
        seen.append(microbatch_rows)
        return original(*arguments, microbatch_rows=microbatch_rows, **options)

    monkeypatch.setattr(decoding, "sample", sample)
    monkeypatch.setattr("couplet.evaluation.analysis._write", lambda *_: None)  # figures are slow
    words = ("--samples", 2, "--limit", 2, "--temperatures", 1, "--steps", 4, "--local", "rollout.microbatch_rows=3")
    code, _, error = command("analyze", run_folder, "katas:heldout", *words, "--out", tmp_path / "out")
    assert code == 0 and set(seen) == {3}, error


def test_an_out_that_cannot_be_written_is_found_before_anything_is_sampled(
    run_folder, problem_file, tmp_path, command, monkeypatch
):
    monkeypatch.setattr("couplet.commands.analyze.open_evaluator", None)
    (tmp_path / "file").write_text("")
    words = ("--samples", 1, "--words", "none", "--local", "--out")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, error = command("analyze", run_folder, problem_file, *words, out)
        assert code == 2 and "cannot write" in error and error.count("\n") == 1 and "name another --out" in error
