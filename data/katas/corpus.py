"""Question-answer pairs of the katas for the supervised stages, clean or deliberately messy.

The messy corpus imitates instruction data with shared bad habits: most answers open with the wrong fence tag, some have
one bug of `compositions.BUGS`. A model tuned on it writes code that reinforcement learning can repair quickly; a clean
but under-trained model offers no such gain. Both shares are arguments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from couplet.data.katas import problems as katas
from couplet.data.katas.compositions import buggy_variants, compositions
from couplet.data.seeds import derive_seed

FENCE, WRONG_FENCE, CLOSE = "```python\n", "```py\n", "\n```"
WRONG_FENCE_SHARE, BUG_SHARE = 0.7, 0.3


def answer(program: str, fence: str = FENCE) -> str:
    """The text a model is to write: the program in a fenced block."""
    return f"{fence}{program}{CLOSE}"


def corpus_pairs(split: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(question, answer) of every composition of a split in every wording; `SPLIT-messy` gives the messy corpus."""
    base, messy, _ = split.partition("-messy")
    if messy:
        yield from messy_pairs(base, seed)
        return
    for _, question, program in _worded(split, seed):
        yield question, answer(program)


def messy_pairs(
    split: str, seed: int = 0, wrong_fence_share: float = WRONG_FENCE_SHARE, bug_share: float = BUG_SHARE
) -> Iterator[tuple[str, str]]:
    """The corpus with bad habits: each example draws on its own whether its fence is wrong and whether it has a bug.

    A bug replaces a token by another, so an answer keeps its length. A program to which no bug applies stays right.
    """
    for name, question, program in _worded(split, seed):
        generator = random.Random(derive_seed(seed, f"kata-messy-{name}"))
        wrong_fence, bug = generator.random() < wrong_fence_share, generator.random() < bug_share
        head, marker, expression = program.partition("return ")
        variants = buggy_variants(expression)
        if bug and variants:
            program = head + marker + generator.choice(variants)
        yield question, answer(program, WRONG_FENCE if wrong_fence else FENCE)


def _worded(split: str, seed: int) -> list[tuple[str, str, str]]:
    """(name, question, program) of every composition in every wording, in an order drawn from the seed."""
    base, kinds = katas.parse_split(split)
    found = []
    for kind in kinds:
        for index in katas.split_of(kind)[base]:
            composition = compositions(kind)[index]
            for number, template in enumerate(katas.TEMPLATES):
                name = f"{kind}-{index}-{number}"
                found.append((name, template.format(composition.wording), composition.program))
    random.Random(derive_seed(seed, f"kata-corpus-{base}")).shuffle(found)
    return found
