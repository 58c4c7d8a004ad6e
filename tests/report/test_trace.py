"""A trace as text on a grid, as a GIF and as an SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from PIL import Image

from couplet.data.tokenizer import tiny_tokenizer
from couplet.report.animation import write_gif, write_svg
from couplet.report.trace import Trace, frame_steps, hue, layout, step_colour, token_pieces

SVG = "{http://www.w3.org/2000/svg}"
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


def test_an_svg_keeps_the_spaces_of_code(tmp_path) -> None:
    """Viewers collapse and trim ordinary spaces; no-break spaces stay."""
    root = ElementTree.parse(write_svg(TRACE, tmp_path / "trace.svg")).getroot()
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert "\u00a0\u00a0\u00a0\u00a0return" in texts and not any(text.startswith(" ") for text in texts)


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\ud800", "\uffff"])
def test_an_svg_is_xml_whatever_the_policy_wrote(tmp_path, text: str) -> None:
    path = write_svg(Trace(text, (text,), (0,), 1), tmp_path / "trace.svg")
    assert ElementTree.parse(path).getroot().find(f"{SVG}title") is not None


def test_pieces_of_tokens_join_to_the_text_and_characters_stay_whole() -> None:
    text = "def f(x):\n    return 'ä → 日本 🙂'\n"
    pieces = token_pieces(list(text.encode()), lambda ids: bytes(ids).decode("utf-8", "replace"))
    assert len(pieces) == len(text.encode()) and "".join(pieces) == text
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("def f(x):\n    return x\n")
    assert token_pieces(ids, tokenizer.decode) == [tokenizer.decode([token]) for token in ids]


def test_pieces_of_broken_bytes_are_shown_and_end() -> None:
    def decode(ids):
        return bytes(ids).decode("utf-8", "replace")

    assert token_pieces(list(b"a\xff\xff\xff\xff\xffb"), decode)[-1].endswith("b")
    assert token_pieces(list("é".encode()), decode) == ["", "é"]
    assert token_pieces(list(b"a\xc3"), decode) == ["a", "\ufffd"]


def test_hues_are_whole_degrees_from_first_to_last_step() -> None:
    assert hue(0, 16) == 216 and hue(15, 16) == 29 and hue(0, 1) == 216
