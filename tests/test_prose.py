"""Prose uses plain words (`tests/glossary.py`), and what a page names exists."""

import re
from pathlib import Path

import pytest

from couplet import ROOT
from tests.glossary import FOLDERS, findings, places


def test_no_avoided_word_is_left():
    assert places() == []


@pytest.mark.parametrize(
    "text",
    [
        "the run goes on",
        "the run goes\n    # on after a kill",
        "def weights_print(folder):",
        "class ToldLearner:",
        "as many forwards as the baseline",
        "GRANT = 0.05",
        "a torn checkpoint is passed over",
        "problem 'code/0' stands twice",
        "it is no run folder",
    ],
)
def test_an_avoided_word_is_found_in_names_and_across_lines(text):
    assert len(findings("a.py", text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "the proxy forwards the signal to its child",
        "n stands for the number of groups; a stand-in for vLLM",
        "tests tend to call it",
        "there is no run folder, and it is no longer needed",
        "one pass over the batch",
        "to leave room for a prompt",
        '"steps_per_print": None, test_the_table_prints',
    ],
)
def test_plain_uses_are_left_alone(text):
    assert findings("a.py", text) == []


def named_tests():
    """(page, file, test) of every test that a page names."""
    for page in sorted(Path(ROOT, "docs").glob("*.md")):
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
            yield page.name, file, name


@pytest.mark.parametrize(("page", "file", "name"), list(named_tests()))
def test_a_test_that_a_page_names_exists(page, file, name):
    path = Path(ROOT, file)
    assert path.is_file() and f"def {name}(" in path.read_text(), f"{page} names {file}::{name}"


@pytest.mark.parametrize("page", [Path(ROOT, "README.md"), *sorted(Path(ROOT, "docs").glob("*.md"))], ids=str)
def test_files_that_a_page_names_exist(page):
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/]+\.(?:py|yaml))`", page.read_text())
    assert [name for name in named if not Path(ROOT, name).is_file()] == []
