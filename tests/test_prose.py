"""The project's prose keeps to plain words (`tests/glossary.py`)."""

import pytest

from tests.glossary import NOT_YET, findings, places


def test_no_avoided_word_is_left():
    assert places(besides=NOT_YET) == []


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
        "one pass over the batch",
        "to leave room for a prompt",
        '"steps_per_print": None, test_the_table_prints',
    ],
)
def test_plain_uses_are_left_alone(text):
    assert findings("a.py", text) == []
