"""The interactive sampler: what it prints for scripts, what it shows in a terminal, and the exported traces."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from couplet.commands.session import LiveView, run_sample, sampler_of
from couplet.configs.schema import ConfigError, SamplerConfig, ShapeConfig
from couplet.data.tokenizer import CHAT_END, FILLER, MASK, PAD, Tokenizer, train_tokenizer
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.report.trace import Trace, frame_steps, layout, step_colour, write_gif, write_svg


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
        run_sample(folder, once="add one", seed=seed, console=console)
        outputs.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert outputs[0] == outputs[1] != outputs[2]
    assert "\x1b" not in outputs[0] and "step" not in outputs[0]


def test_a_terminal_sees_the_last_frame_with_a_colour_per_step(folder) -> None:
    console = terminal()
    run_sample(folder, once="add one", console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 6 of 6, 12 of 12 tokens" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert len(set(re.findall(r"38;2;\d+;\d+;\d+", shown))) >= 4


def test_a_session_answers_until_an_empty_line_and_survives_a_refused_prompt(folder, monkeypatch) -> None:
    monkeypatch.setattr(Tokenizer, "chat_prompt", lambda self, question: self.encode(question, special=True))
    questions = iter(["one", f"with {MASK}", "two", ""])
    console = Console(file=io.StringIO(), width=100)
    run_sample(folder, console=console, read=lambda _: next(questions))
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
        run_sample(tmp_path / "nothing", once="hello")


def test_a_token_keeps_the_step_that_revealed_it(folder) -> None:
    from couplet.data.tokenizer import load_tokenizer

    policy = DiffusionPolicy.from_pretrained(folder)
    config = SamplerConfig(steps=3, completion_length=3)
    view = LiveView(policy, load_tokenizer(folder), config)
    mask = policy.token_ids.mask
    view.frame(0, np.array([mask, 20, mask]))
    view.frame(1, np.array([21, 20, mask]))
    view.frame(2, np.array([21, 20, 22]))
    assert view.step_C.tolist() == [1, 0, 2]


def test_exports_of_a_session_are_written(folder, tmp_path) -> None:
    run_sample(folder, once="x", gif=tmp_path / "a.gif", svg=tmp_path / "b.svg", console=Console(file=io.StringIO()))
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF8") and (tmp_path / "b.svg").exists()


TRACE = Trace("<add> & one", ("def", " f", "(x)", ":\n", "    return", " x\n", "■"), (0, 2, 2, 1, 3, 3, 1), 4)


def test_layout_breaks_lines_and_wraps() -> None:
    cells = layout(("ab", "c\nde", "f"), columns=4)
    assert [tuple(cell) for cell in cells] == [
        (0, 0, 0, "ab"),
        (1, 0, 2, "c⏎"),
        (1, 1, 0, "de"),
        (2, 1, 2, "f"),
    ]
    assert [(c.row, c.column, c.text) for c in layout(("abcdef",), columns=4)] == [(0, 0, "abcd"), (1, 0, "ef")]


def test_steps_run_from_blue_to_orange() -> None:
    assert step_colour(0, 10) != step_colour(9, 10)
    first, last = step_colour(0, 2), step_colour(1, 2)
    assert int(first[5:], 16) > int(first[1:3], 16) and int(last[1:3], 16) > int(last[5:], 16)
    assert step_colour(0, 1) == first


def test_an_animation_shows_only_steps_that_reveal_and_not_too_many() -> None:
    assert frame_steps(TRACE) == [-1, 0, 1, 2, 3]
    long = Trace("", ("a",) * 300, tuple(range(300)), 300)
    assert len(frame_steps(long)) == 96 and frame_steps(long)[-1] == 299


def test_a_gif_has_a_frame_per_revealing_step_and_a_rest(tmp_path) -> None:
    with Image.open(write_gif(TRACE, tmp_path / "trace.gif")) as image:
        assert image.n_frames >= 5  # equal frames at the end may be joined


def test_an_svg_is_well_formed_escaped_and_has_no_script(tmp_path) -> None:
    path = write_svg(TRACE, tmp_path / "trace.svg")
    root = ElementTree.parse(path).getroot()
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "(x)" in texts and root.find("{http://www.w3.org/2000/svg}title").text == "<add> & one"  # type: ignore[union-attr]
    assert "<script" not in path.read_text() and "http" not in path.read_text().replace(
        "http://www.w3.org/2000/svg", ""
    )
