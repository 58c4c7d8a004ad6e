"""All of a corpus, in order; prepared sets."""

from collections.abc import Iterator
from typing import Any

from couplet.data import prepare as module
from couplet.data.corpora.stream import column
from couplet.data.prepare import Summary
from couplet.data.sources import open_source


def texts(source: str, text_column: str = "text") -> Iterator[str]:
    """Every document of a source, in order."""
    for shard in open_source(source):
        for place, row in shard.read(0):
            yield column(place, row, text_column)


def pairs(source: str, prompt_column: str = "prompt", answer_column: str = "answer") -> Iterator[tuple[str, str]]:
    """Every (prompt, answer) of a source, in order."""
    for shard in open_source(source):
        for place, row in shard.read(0):
            yield column(place, row, prompt_column), column(place, row, answer_column)


def prepare(*arguments: Any, **named: Any) -> Summary:
    """`prepare` of a request with these arguments, without running anything."""
    return module.prepare(module.Request(*arguments, **named))
