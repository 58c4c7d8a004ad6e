"""Streams of examples: shuffled in blocks, epoch after epoch, resumed exactly from a saved position."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from couplet.data.corpora.open import open_corpus
from couplet.data.seeds import derive_seed
from couplet.data.sources import Row, SourceError

Part = Literal["all", "train", "validation"]


def column(place: str, row: Row, name: str) -> str:
    """The text in a column; SourceError, with the place, if it is missing or not text."""
    if name not in row:
        raise SourceError(f"{place}: no column {name!r}; it has {', '.join(map(str, row)) or 'none'}")
    if not isinstance(row[name], str):
        raise SourceError(f"{place}: column {name!r} holds {type(row[name]).__name__}, expected text")
    return str(row[name])


class Stream:
    """Rows of a source, epoch after epoch, shuffled, resumable.

    The shards are permuted in every epoch; the rows are cut into blocks of `buffer`, each shuffled on its own. So a
    source no larger than `buffer` is shuffled completely. `part` keeps or leaves out the rows held back for validation,
    chosen by a hash of the `columns`, so that equal examples fall on the same side. `epochs` None never ends.
    """

    def __init__(
        self,
        source: str,
        columns: tuple[str, ...],
        seed: int = 0,
        buffer: int = 10_000,
        epochs: int | None = None,
        part: Part = "all",
        validation_share: float = 0.02,
    ) -> None:
        self.source, self.columns, self.seed, self.buffer = source, columns, seed, buffer
        self.epochs, self.part, self.validation_share = epochs, part, validation_share
        self._shards = open_corpus(source)
        # Where the current block begins (epoch, shard in this epoch's order, row) and how many of its rows were given.
        self._epoch, self._shard, self._row, self._taken = 0, 0, 0, 0
        self._block: list[tuple[str, ...]] = []
        self._next_block = (0, 0, 0)
        self._loaded = False
        self._given = 0  # rows of the current epoch given so far

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return self

    def __next__(self) -> tuple[str, ...]:
        if not self._loaded:
            self._load_block()
        while self._taken >= len(self._block):
            self._advance()
        self._taken += 1
        self._given += 1
        return self._block[self._taken - 1]

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._epoch

    @property
    def made_from(self) -> dict[str, str | int]:
        """What a saved position belongs to."""
        return {"source": self.source, "seed": self.seed, "part": self.part}

    def state(self) -> dict[str, int]:
        """The position in the stream, as plain numbers."""
        return {"epoch": self._epoch, "shard": self._shard, "row": self._row, "taken": self._taken}

    def restore(self, state: dict[str, int]) -> None:
        """Resume from `state`, given the same source and arguments."""
        self._epoch, self._shard, self._row = state["epoch"], state["shard"], state["row"]
        self._load_block()
        self._taken = self._given = state["taken"]
        self._given += (self._shard, self._row) != (0, 0)  # what came before the block counts as one

    def _advance(self) -> None:
        epoch, shard, row = self._next_block
        if epoch != self._epoch:
            if self._given == 0:
                raise SourceError(f"{self.source}: no example in it (part {self.part!r})")
            self._given = 0
        self._epoch, self._shard, self._row, self._taken = epoch, shard, row, 0
        self._load_block()

    def _order(self) -> list[int]:
        order = list(range(len(self._shards)))
        random.Random(derive_seed(self.seed, "shards", self._epoch)).shuffle(order)
        return order

    def _load_block(self) -> None:
        if self.epochs is not None and self._epoch >= self.epochs:
            self._block, self._taken, self._loaded = [], 0, True
            raise StopIteration
        order = self._order()
        block: list[tuple[str, ...]] = []
        shard, row, read = self._shard, self._row, 0
        while shard < len(order) and read < self.buffer:
            for place, found in self._shards[order[shard]].read(row):
                values = tuple(column(place, found, name) for name in self.columns)
                row, read = row + 1, read + 1
                if self._belongs(values):
                    block.append(values)
                if read >= self.buffer:
                    break
            else:
                shard, row = shard + 1, 0
        self._next_block = (self._epoch, shard, row) if shard < len(order) else (self._epoch + 1, 0, 0)
        random.Random(derive_seed(self.seed, "block", self._epoch, self._shard, self._row)).shuffle(block)
        self._block, self._taken, self._loaded = block, 0, True

    def _belongs(self, values: tuple[str, ...]) -> bool:
        if self.part == "all":
            return True
        digest = hashlib.blake2b("\0".join(values).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        held_back = int.from_bytes(digest, "little") < self.validation_share * 2**64
        return held_back == (self.part == "validation")
