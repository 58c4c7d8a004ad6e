"""JSON lines survive a writer that is killed; a broken line in the middle is named."""

import io

import pytest

from couplet.data.fingerprint import fingerprint
from couplet.data.jsonl import LineError, append_jsonl, cut_unfinished_line, read_jsonl


def rows(path):
    return list(read_jsonl(path))


def test_rows_come_with_their_line_numbers_and_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": "\u2028ä"}')
    assert rows(path) == [(1, {"a": 1}), (3, {"a": "\u2028ä"})]


@pytest.mark.parametrize("torn", [b'{"a": ', b"\x00\x00", b'{"a": "\xc3'])
def test_an_unfinished_last_line_is_skipped_and_cut(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert rows(path) == [(1, {"a": 1})]
    assert cut_unfinished_line(path) == len(torn) and path.read_bytes() == b'{"a": 1}\n'
    assert cut_unfinished_line(path) == 0


@pytest.mark.parametrize("broken", [b"{", b"3", b"\xff{}"])
def test_any_other_broken_line_is_named(tmp_path, broken):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + broken + b"\n")
    with pytest.raises(LineError, match=r"a\.jsonl, line 2: .*delete the line"):
        rows(path)


def test_what_is_appended_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        append_jsonl(file, {"text": "a\nb\u2028"})
        assert rows(path) == [(1, {"text": "a\nb\u2028"})]  # before the file is closed
    assert append_jsonl(io.StringIO(), {}) is None


def test_a_fingerprint_depends_on_the_content_alone():
    assert fingerprint(["ab", b"c"]) == fingerprint([b"abc"]) == "cf4ab791c62b8d2b2109c90275287816"
    assert fingerprint(["abc"]) != fingerprint(["abd"]) and len(fingerprint(["\ud800"], size=8)) == 16
