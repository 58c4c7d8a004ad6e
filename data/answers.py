"""What a model writes, and the program in it.

Models wrap programs in prose, Markdown fences, lists, reasoning and special tokens; continue the prompt or repeat it;
end a fence that the prompt has opened. `program_of_answer` reads all of these. The strict published rule that training
pays for is `reward.code_format`; both end in `whole_program` or `continuation`, the only places that put a program
together.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from couplet.data.problem import Problem
from couplet.data.syntax import (
    MAX_CODE,
    NotPython,
    called_function,
    defines,
    missing_names,
    parse,
    parses,
    top_level_names,
    whole_statements,
)

NO_FENCE = r"(?:(?!```)[\s\S])*"
ANY_FENCE = re.compile(rf"```[^\n`]*\n({NO_FENCE})(?:```|\Z)")

MAX_BLOCKS = 100  # every block is read for names that others need
INDENTED = "indented"  # in place of the language of an indented block
_PYTHON = frozenset((INDENTED, "", "python", "py", "python3", "py3", "python2", "ipython"))
_REASONING = re.compile(r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_REASONING_END = re.compile(r"\A.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_WRAPPER = re.compile(r"</?(?:answer|solution|response|code)>", re.IGNORECASE)
_END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eot|eom_id|end|dlm_pad|pad)\|>|</s>|<eos>|<｜end▁of▁sentence｜>|\[EOS\]"
)
_LEADING_TOKENS = re.compile(
    r"\A\s*(?:<\|im_start\|>\s*assistant\s*|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>\s*|<\|assistant\|>\s*"
    r"|<\|(?:begin_of_text|startoftext|endoftext)\|>|<s>|<｜[^｜\n]{1,40}｜>)+"
)
_SPECIAL_TOKEN = re.compile(r"<\|[\w ]{1,40}\|>|<｜[^｜\n]{1,40}｜>")
_FENCE_LINE = re.compile(r"\A\s*(?:~{3,}|`{3,}|(?:python3?|py)[ \t]*\n)")
_LANGUAGE_LINE = re.compile(r"\A\s*(?:python3?|py)[ \t]*\n")  # of a fence that the prompt has opened
_INDENTED = re.compile(r"\A(?:[ \t]*\n)*[ \t]+\S")


class Block(NamedTuple):
    """A fenced block of Markdown: the first word after the opening fence, in lower case, and the content."""

    language: str
    content: str


def program_of_answer(text: str, problem: Problem, continues: bool = True) -> str:
    """The program in an answer; the text as it is if no program is found, which then fails.

    The first of these that parses and defines what is asked for counts: the whole text; what is left of it without
    reasoning and special tokens; the text before a closing fence that nothing opened; a fenced block, with the blocks
    that define what it needs; all Python blocks together. Each is tried as a program and as a continuation.

    Args:
        continues: whether the text may continue the prompt (a `completion`); a `solution` is a whole program.
    """
    reader = _Reader(problem, continues)
    stripped = without_tokens(text)
    for candidate in dict.fromkeys((text, stripped)):
        if program := reader.accept(candidate):
            return program
    blocks = code_blocks(stripped)
    inline = (found.group(1) for found in itertools.islice(ANY_FENCE.finditer(stripped), 16))  # `Here: ```python`
    for candidate in (*_before_unpaired_fence(stripped), *_from_blocks(blocks, reader.asked), *inline):
        if program := reader.accept(candidate):
            return program
    code = next((block.content for block in blocks if block.language != INDENTED), stripped)
    return continuation(code, problem) if reader.may_continue else whole_program(code, problem)


class _Reader:
    """What is asked for, and whether a text gives it."""

    def __init__(self, problem: Problem, continues: bool) -> None:
        self.problem = problem
        self.may_continue = bool(continues and (problem.code_prefix or problem.suffix))
        self.asked = problem.entry_point or called_function(problem.tests, problem.canonical_solution)

    def accept(self, code: str) -> str | None:
        """The program of `code`, if it parses and defines what is asked for."""
        problem = self.problem
        if _FENCE_LINE.match(code):  # `~~~python` and `python` are expressions
            return None
        if problem.suffix and self.may_continue:
            for middle in dict.fromkeys((code, code.removesuffix("\n"))):
                if parses(program := continuation(middle, problem)):
                    return program
        if defines(code, self.asked) or (self.asked is None and self._may_run(code)):
            return whole_program(code, problem)
        if self.may_continue and (_INDENTED.match(code) or not parses(problem.code_prefix)):
            program = continuation(code, problem)
            return program if defines(program, self.asked) or (self.asked is None and parses(program)) else None
        return None

    def _may_run(self, code: str) -> bool:
        """Whether code that need not define anything may be the answer; a program for stdin calls something."""
        tree = _parsed(code)
        return any(isinstance(node, ast.Call) or not self.problem.stdio for node in ast.walk(tree) if node is not tree)


def without_tokens(text: str) -> str:
    """`text` without reasoning (`<think>…</think>`), wrapper tags and special tokens; it ends at the first end token."""
    text = _LEADING_TOKENS.sub("", text)
    text = _REASONING.sub("", text)
    text = _REASONING_END.sub("", text)  # the prompt opened it
    text = _LEADING_TOKENS.sub("", text)
    if end := _END_TOKEN.search(text):
        text = text[: end.start()]
    return _LANGUAGE_LINE.sub("", _WRAPPER.sub("", _SPECIAL_TOKEN.sub("", text)))


def code_blocks(text: str) -> list[Block]:
    """The fenced blocks of `text` by CommonMark's rules, also in lists and quotes, or else its indented ones.

    A text of more than a megabyte has none, and of a model that repeats itself the first `MAX_BLOCKS` count.
    """
    from markdown_it import MarkdownIt

    if len(text) > MAX_CODE:
        return []
    markdown = MarkdownIt("commonmark").disable(["inline", "reference", "html_block", "text_join"], ignoreInvalid=True)
    tokens = markdown.parse(text)
    fences = [token for token in tokens if token.type == "fence"]
    found = [Block((token.info.split() or [""])[0].lower().strip("{.}"), token.content) for token in fences]
    found = found or [Block(INDENTED, token.content) for token in tokens if token.type == "code_block"]
    return found[:MAX_BLOCKS]


def _before_unpaired_fence(text: str) -> Iterator[str]:
    """The text before its first fence: a program, if the prompt has opened the block that this fence closes."""
    fence = re.search(r"^ {0,3}(?:`{3,}|~{3,})[^\n`]*$", text, re.MULTILINE)
    if fence and text[: fence.start()].strip():
        yield text[: fence.start()]


def _from_blocks(blocks: list[Block], asked: str | None) -> Iterator[str]:
    """Programs that the blocks may be, best first; blocks in other languages last."""
    python = [block.content for block in blocks if block.language in _PYTHON]
    if asked:
        yield from (_with_needs(code, python) for code in python if defines(code, asked))
        yield from python
    else:  # the last block is the answer, one named Python before one without a name
        latest = [block for block in reversed(blocks) if block.language in _PYTHON]
        yield from (block.content for block in sorted(latest, key=lambda block: not block.language))
    yield "\n".join(python)
    yield from (block.content for block in blocks if block.language not in _PYTHON)


def _with_needs(code: str, blocks: list[str]) -> str:
    """`code`, after the other blocks that define names it reads."""
    parsed = [(block, _parsed(block)) for block in blocks if block != code]
    chosen, needed = {code}, missing_names(parse(code))
    while more := [(block, tree) for block, tree in parsed if block not in chosen and needed & top_level_names(tree)]:
        chosen |= {block for block, _ in more}
        needed = set().union(*(missing_names(tree) for _, tree in more))
    return "\n".join([block for block in blocks if block in chosen and block != code] + [code])


def _parsed(code: str) -> ast.Module:
    try:
        return parse(code)
    except NotPython:
        return ast.Module([], [])


def whole_program(code: str, problem: Problem) -> str:
    """What is executed for an answer that is a program: the preamble and the prompt's imports and helpers come first."""
    prefix = problem.code_prefix
    if prefix and not parses(prefix):
        stubs = (f"{prefix}\n    pass\n", f"{prefix}    pass\n", whole_statements(prefix))
        prefix = next(stub for stub in stubs if parses(stub))
    return _assembled([part for part in (problem.preamble, prefix) if part], code)


def continuation(code: str, problem: Problem) -> str:
    """What is executed for an answer that continues the prompt, and is continued by the suffix when infilling."""
    return _assembled([problem.preamble] if problem.preamble else [], problem.code_prefix + code + problem.suffix)


def _assembled(before: list[str], code: str) -> str:
    if not before:
        return code
    lifted, code = _lift_future_imports(code)
    for index, part in enumerate(before):
        more, before[index] = _lift_future_imports(part)
        lifted += more
    return "".join(f"{line}\n" for line in dict.fromkeys(lifted)) + "\n".join((*before, code))


def _lift_future_imports(code: str) -> tuple[list[str], str]:
    """The `from __future__` imports of a program, which must come first, and the program with `pass` in their place."""
    if "__future__" not in code or not (tree := _parsed(code)).body:
        return [], code
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    lines = code.encode().splitlines(keepends=True)
    for node in reversed(imports):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        after = lines[last][node.end_col_offset :]
        lines[first : last + 1] = [lines[first][: node.col_offset] + b"pass" + after]
    return [ast.unparse(node) for node in imports], b"".join(lines).decode()
