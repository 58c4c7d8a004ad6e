"""Corpora of the supervised stages: documents packed end to end, or prompts with their answers on a canvas.

Both kinds of batches come from a shuffled stream and continue exactly from a saved state. Every learner rank reads the
same batches and trains its rows of them (`learner.adapt`), so a state saved by four ranks continues on two, and a job
is limited to what one core tokenises.

Shapes: B rows of the whole batch, L tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from couplet.configs.errors import UserError
from couplet.data.corpora.stream import Stream
from couplet.data.infilling import missing_from_answer
from couplet.data.seeds import derive_seed
from couplet.data.sources import SourceError
from couplet.data.tokenizer import CHAT_END, FILLER, PAD, Tokenizer


@dataclass(frozen=True)
class PackedBatch:
    """Rows of documents laid end to end. `document_BL` numbers the documents of each row from 0, ends included."""

    tokens_BL: np.ndarray  # int32
    document_BL: np.ndarray  # int32


@dataclass(frozen=True)
class InstructBatch:
    """Left-padded prompts, each followed by a canvas: the answer, the end token, then the filler.

    Infilling: the answer is what is missing from a program, and the rest of it follows the canvas.
    """

    tokens_BL: np.ndarray  # int32
    attention_BL: np.ndarray  # bool: false on the padding
    answer_BL: np.ndarray  # bool: the canvas, all of it to be corrupted and learned


def _check_same(state: dict[str, Any], expected: dict[str, Any]) -> None:
    if state["made_from"] != expected:
        raise UserError(f"the saved position belongs to {state['made_from']}, not to {expected}: start a new run")


class PackedBatches:
    """Packed batches of a stream of texts.

    Documents, each closed by `end_token` (a name or an id), are laid end to end and cut into rows of `length` tokens; a
    document cut by the end of a row continues in the next. `batch` counts the rows of all learner ranks. The incomplete
    last batch of a finite stream is left out.
    """

    def __init__(
        self,
        stream: Stream,
        tokenizer: Tokenizer,
        *,
        length: int,
        batch: int,
        end_token: str | int = PAD,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch = {batch}: must be at least 1")
        self._tokenizer, self._row_length, self._batch = tokenizer, length, batch
        self._end = tokenizer.id(end_token)
        self._stream = stream
        self._carry: list[int] = []  # tokens read but not yet given
        self._made_from = {**stream.made_from, "batch": batch, "length": length}
        self.counts = {"documents": 0, "tokens": 0}

    def __iter__(self) -> PackedBatches:
        return self

    def __next__(self) -> PackedBatch:
        needed = self._batch * self._row_length
        while len(self._carry) < needed:
            (text,) = next(self._stream)
            self._carry.extend((*self._tokenizer.encode(text), self._end))
            self.counts["documents"] += 1
        rows = np.array(self._carry[:needed], dtype=np.int32).reshape(self._batch, self._row_length)
        del self._carry[:needed]
        self.counts["tokens"] += needed
        ends_BL = rows == self._end
        return PackedBatch(rows, (np.cumsum(ends_BL, axis=1) - ends_BL).astype(np.int32))

    def state(self) -> dict[str, Any]:
        """Where the next batch begins; plain JSON values."""
        position = {"stream": self._stream.state(), "carry": list(self._carry), "counts": dict(self.counts)}
        return {**position, "made_from": self._made_from}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. UserError if it was taken from another source, seed or batch shape."""
        _check_same(state, self._made_from)
        self._stream.restore(state["stream"])
        self._carry, self.counts = list(state["carry"]), dict(state["counts"])


class InstructBatches:
    """Batches of a stream of prompts with their answers.

    A row is the chat prompt, left-padded to `length - canvas`, and a canvas of `canvas` tokens: the answer, the end
    token, then the filler. In a share `infill` of the rows a random part of the answer's code is missing: the canvas
    has that part, what precedes it belongs to the prompt, and what follows it, with an end token, follows the canvas.
    `batch` counts the rows of all learner ranks. Examples whose prompt or answer is too long are dropped and counted in
    `counts`. The incomplete last batch of a finite stream is left out.
    """

    def __init__(
        self,
        stream: Stream,
        tokenizer: Tokenizer,
        *,
        length: int,
        canvas: int,
        batch: int,
        infill: float = 0.0,
        system: str | None = None,
        end_token: str | int = CHAT_END,
        pad_token: str | int = PAD,
        filler_token: str | int = FILLER,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch = {batch}: must be at least 1")
        if not 0 < canvas < length:
            raise ValueError(f"canvas = {canvas}: must lie between 0 and length = {length}, to leave room for a prompt")
        self._tokenizer, self._row_length, self._canvas_length, self._batch = tokenizer, length, canvas, batch
        self._system = system
        self._end, self._pad, self._filler = map(tokenizer.id, (end_token, pad_token, filler_token))
        self._stream = stream
        self._made_from: dict[str, Any] = {**stream.made_from, "batch": batch, "length": length, "canvas": canvas}
        if infill:
            self._made_from["infill"] = infill
        self._infill, self._seed = infill, stream.seed
        self.counts = {"examples": 0, "prompts_too_long": 0, "answers_too_long": 0}
        self._encode = lru_cache(4096)(self._encode_pair)  # a small corpus is encoded once, not once per epoch

    def __iter__(self) -> InstructBatches:
        return self

    def __next__(self) -> InstructBatch:
        rows = [self._next_row() for _ in range(self._batch)]
        tokens_BL = np.full((len(rows), self._row_length), self._pad, dtype=np.int32)
        attention_BL = np.zeros(tokens_BL.shape, dtype=bool)
        answer_BL = np.zeros(tokens_BL.shape, dtype=bool)
        for number, (row, suffix) in enumerate(rows):
            tokens_BL[number, self._row_length - len(row) :] = row
            attention_BL[number, self._row_length - len(row) :] = True
            last = self._row_length - suffix
            answer_BL[number, last - self._canvas_length : last] = True
        return InstructBatch(tokens_BL, attention_BL, answer_BL)

    def _encode_pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        return self._tokenizer.chat_prompt(prompt, self._system), [*self._tokenizer.encode(answer), self._end]

    def _encode_row(self, prompt_text: str, answer_text: str) -> tuple[list[int], list[int], list[int]]:
        """Prompt, answer and suffix of an example, by a draw of its own with a gap."""
        prompt, answer = self._encode(prompt_text, answer_text)
        if not self._infill:
            return prompt, answer, []
        generator = random.Random(derive_seed(self._seed, "infill", sum(self.counts.values())))
        parts = missing_from_answer(answer_text, generator) if generator.random() < self._infill else None
        if parts is None:
            return prompt, answer, []
        before, middle, after = (self._tokenizer.encode(part) for part in parts)
        return prompt + before, [*middle, self._end], [*after, self._end]

    def _next_row(self) -> tuple[list[int], int]:
        """Prompt, filled canvas and suffix of the next example that fits, and the length of the suffix."""
        first_epoch = self._stream.epoch
        while True:
            prompt_text, answer_text = next(self._stream)
            if self._stream.epoch > first_epoch + 1:
                raise SourceError(f"{self._made_from['source']}: no example fits: {self.counts}")
            prompt, answer, suffix = self._encode_row(prompt_text, answer_text)
            if len(prompt) + len(suffix) > self._row_length - self._canvas_length:
                self.counts["prompts_too_long"] += 1
            elif len(answer) > self._canvas_length:
                self.counts["answers_too_long"] += 1
            else:
                self.counts["examples"] += 1
                return prompt + answer + [self._filler] * (self._canvas_length - len(answer)) + suffix, len(suffix)

    def state(self) -> dict[str, Any]:
        """Where the next batch begins; plain JSON values."""
        return {"stream": self._stream.state(), "counts": dict(self.counts), "made_from": self._made_from}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. UserError if it was taken from another source, seed or batch shape."""
        _check_same(state, self._made_from)
        self._stream.restore(state["stream"])
        self.counts = dict(state["counts"])
