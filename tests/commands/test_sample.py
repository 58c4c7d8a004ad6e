"""The interactive sampler: what it prints for scripts, what it shows in a terminal, and the exported traces."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from couplet.commands import main
from couplet.commands.infill import read_parts, run_infill
from couplet.commands.session import LiveView, Sampling, run_sample, sampler_of
from couplet.configs.schema import ConfigError, SamplerConfig, ShapeConfig
from couplet.data.tokenizer import CHAT_END, FILLER, MASK, PAD, Tokenizer, train_tokenizer
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run folder's policy: random weights, a small tokenizer, a config beside it."""
    root = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer(["def f(x):\n    return x + 1\n"] * 20, size=140)
    tokenizer.save(root / "tokenizer")
    ids = TokenIds(
        *(tokenizer.id(name) for name in (MASK, PAD, PAD, PAD, FILLER)),
        end=(tokenizer.id(CHAT_END),),
    )
    shape = ShapeConfig(hidden=16, layers=1, heads=2, kv_heads=2, ffn=32, embedding_std=0.5)
    policy = DiffusionPolicy.from_shape(
        shape, vocab_size=len(tokenizer), token_ids=ids, seed=0, tokenizer_folder=root / "tokenizer"
    )
    policy.save_pretrained(root / "policy")
    (root / "config.yaml").write_text("name: toy\nsampler:\n  steps: 6\n  completion_length: 12\n")
    return root / "policy"


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system="truecolor")


def test_a_script_gets_the_text_alone_and_the_same_for_the_same_seed(folder) -> None:
    outputs = []
    for seed in (3, 3, 4):
        console = Console(file=io.StringIO(), width=100)
        run_sample(Sampling.load(folder, seed=seed), once="add one", console=console)
        outputs.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert outputs[0] == outputs[1] != outputs[2]
    assert "\x1b" not in outputs[0] and "step" not in outputs[0]


def test_a_terminal_sees_the_last_frame_with_a_colour_per_step(folder) -> None:
    console = terminal()
    run_sample(Sampling.load(folder), once="add one", console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 6 of 6, 12 of 12 tokens" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert len(set(re.findall(r"38;2;\d+;\d+;\d+", shown))) >= 4


def test_a_session_answers_until_an_empty_line_and_survives_a_refused_prompt(folder, monkeypatch) -> None:
    monkeypatch.setattr(Tokenizer, "chat_prompt", lambda self, question: self.encode(question, special=True))
    questions = iter(["one", f"with {MASK}", "two", ""])
    console = Console(file=io.StringIO(), width=100)
    run_sample(Sampling.load(folder), console=console, read=lambda _: next(questions))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "contains the mask token" in text and next(questions, None) is None


def test_the_sampler_follows_the_run_and_the_changes(folder) -> None:
    assert sampler_of(folder, {}).steps == 6
    changed = sampler_of(folder, {"completion_length": 24, "order": "origin", "temperature": None})
    assert (changed.steps, changed.completion_length, changed.order) == (12, 24, "origin")
    with pytest.raises(ConfigError, match=r"sampler\.order"):
        sampler_of(folder, {"order": "random"})
    assert sampler_of(folder.parent / "tokenizer" / "elsewhere", {}) == SamplerConfig()


def test_a_missing_folder_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Sampling.load(tmp_path / "nothing")


def test_a_token_keeps_the_step_that_revealed_it(folder) -> None:
    from couplet.data.tokenizer import load_tokenizer

    policy = DiffusionPolicy.from_pretrained(folder)
    config = SamplerConfig(steps=3, completion_length=3)
    view = LiveView(Sampling(policy, load_tokenizer(folder), config))
    mask = policy.token_ids.mask
    view.frame(0, np.array([mask, 20, mask]))
    view.frame(1, np.array([21, 20, mask]))
    view.frame(2, np.array([21, 20, 22]))
    assert view.step_C.tolist() == [1, 0, 2]


def test_exports_of_a_session_are_written(folder, tmp_path) -> None:
    files = {"gif": tmp_path / "a.gif", "svg": tmp_path / "b.svg"}
    run_sample(Sampling.load(folder), once="x", **files, console=Console(file=io.StringIO()))
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF8") and (tmp_path / "b.svg").exists()


def test_the_gaps_of_a_file_are_filled_with_the_likeliest_of_the_lengths(folder, tmp_path) -> None:
    source = tmp_path / "f.py"
    source.write_text("def f(x):<fill>x +<fill> 1\n")
    out, notes = io.StringIO(), io.StringIO()
    sampling, parts = Sampling.load(folder, seed=1), read_parts(source)
    best = run_infill(sampling, parts, lengths=(2, 5), out=out, notes=notes)
    first, second = best.texts
    assert out.getvalue() == f"def f(x):{first}x +{second} 1\n"
    scores = {int(n): float(nats) for n, nats in re.findall(r"(\d+) tokens per gap: (-[\d.]+)", notes.getvalue())}
    assert list(scores) == [2, 5] and max(scores, key=scores.__getitem__) == best.length
    asked = run_infill(sampling, parts, lengths=(5,), question="add one", out=io.StringIO(), notes=notes)
    assert asked.texts != best.texts


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("def f", [], "no gap in it; write '<fill>' at each"),
        ("def f<fill>", ["--marker", "@@"], "no gap in it; write '@@' at each"),
        ("\xff<fill>", [], "not UTF-8 text"),
        ("<fill>", ["--gif", "a.gif"], "--gif: has no meaning with --infill"),
        ("<fill>", ["--length", "4"], "--length: has no meaning with --infill"),
    ],
)
def test_what_cannot_be_filled_is_one_line(folder, tmp_path, capsys, text, options, message) -> None:
    source = tmp_path / "f.py"
    source.write_bytes(text.encode("latin-1"))
    assert main(["sample", str(folder), "--infill", str(source), *options]) == 2
    assert message in capsys.readouterr().err
    assert main(["sample", str(folder), "--gap", "4"]) == 2
    assert "--gap: has no meaning without --infill" in capsys.readouterr().err
