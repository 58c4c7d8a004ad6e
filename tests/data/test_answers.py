"""The program in an answer, in every form in which models write one."""

import time

import pytest

from couplet.data.answers import code_blocks, continuation, program_of_answer, whole_program
from couplet.data.problem import Problem, StdioCase
from couplet.data.syntax import defines, parses

PREFIX = 'import math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    """Doc."""\n'
CONTINUED = Problem("h", "q", entry_point="f", code_prefix=PREFIX, tests=("assert f(1) == 1",))
PLAIN = Problem("p", "q", ("assert f(1) == 1",))
STDIO = Problem("s", "q", stdio=(StdioCase("1\n", "2\n"),))
BODY = "    return x\n"
WHOLE = "def f(x):\n    return x\n"
DOCUMENTED = 'def f(x):\n    """\n    ```python\n    f(1)\n    ```\n    """\n    return x\n'


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        '    """\n    ```\n    f(1)\n    ```\n    """\n    return x\n',
        f"{BODY}```",
        f"{BODY}```\n\nIt is the identity.",
        f"{BODY}~~~\n\nIt is the identity.",
        f"{BODY}```\n\nExample:\n```python\nprint(f(1))\n```",
        f"```python\n{BODY}```",
        f"{BODY}<|im_end|>\nUser: and now",
        f"<think>f(x) = x?\n```python\nbroken(\n```\n</think>\n{BODY}",
    ],
)
def test_continuations_of_the_prompt(text):
    program = program_of_answer(text, CONTINUED)
    assert program.startswith(PREFIX) and run(program)["f"](7) == 7


@pytest.mark.parametrize("problem", [CONTINUED, PLAIN], ids=["prompt", "plain"])
@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        DOCUMENTED,
        f"{WHOLE}```\n\nIt is the identity.",
        f"Sure:\n```python\n{WHOLE}```\nDone.",
        f"```\n{WHOLE}",
        f"```python\n{DOCUMENTED}```\n",
        f"````python\n{DOCUMENTED}````",
        f"````py\n{DOCUMENTED}`````\nDone.",
        f"~~~python\n{WHOLE}~~~",
        f"~~~python\n{WHOLE}",
        "1. Here:\n\n   ```python\n   def f(x):\n       return x\n   ```\n",
        "- Here:\n  ~~~\n  def f(x):\n      return x\n  ~~~\n",
        "> ```python\n> def f(x):\n>     return x\n> ```\n",
        "   ```Python title=a.py\n   def f(x):\n       return x\n   ```",
        f"Install:\n```bash\npip install x\n```\n```python\n{WHOLE}```\n```\n7\n```",
        f"Usage `f(1)`: inline ``` does not open a fence\n\n```python\n{WHOLE}```",
        f"Test it:\n```python\nassert f(1) == 1\n```\nwith\n```python\n{WHOLE}```",
        "```python\ndef g(x):\n    return x\n```\nthen\n```python\ndef f(x):\n    return g(x)\n```",
        "```python\ndef f(x):\n    return g(x)\n```\nwith\n```python\ndef g(x):\n    return x\n```",
        f"<think>\n```python\ndef f(x):\n    return 0\n```\n</think>\n```python\n{WHOLE}```",
        f"reasoning the prompt opened\ndef f(x): no\n</think>\n```python\n{WHOLE}```",
        f"<|im_start|>assistant\n```python\n{WHOLE}```<|im_end|><|endoftext|>",
        f"<answer>\n```python\n{WHOLE}```\n</answer>",
        f"{WHOLE}</s>",
        f"python\n{WHOLE}```",
        f"Sure: ```python\n{WHOLE}```",
        "```{.python}\n" + f"{WHOLE}```",
        "The function is:\n\n    def f(x):\n        return x\n\nas asked.",
        f"{WHOLE}<|endoftext|>{WHOLE}(",
        f"{WHOLE}\nif __name__ == '__main__':\n    print(f(1))\n",
        "f = lambda x: x\n",
        "try:\n    import numpy\nexcept ImportError:\n    def f(x):\n        return x\nelse:\n    f = lambda x: x\n",
    ],
)
def test_whole_programs(text, problem):
    assert run(program_of_answer(text, problem))["f"](7) == 7


def run(program):
    namespace = {"__name__": "candidate"}
    exec(compile(program, "candidate", "exec"), namespace)
    return namespace


def test_a_whole_text_is_a_program_before_any_fence_in_it_is_read():
    assert program_of_answer(DOCUMENTED, PLAIN) == DOCUMENTED
    tokens = 'def f(x):\n    return "<|im_end|><think>" and x\n'
    assert program_of_answer(tokens, PLAIN) == tokens


def test_a_solution_never_continues_the_prompt():
    assert program_of_answer(BODY, CONTINUED, continues=False) == f"{PREFIX}\n{BODY}"
    assert run(program_of_answer(f"```python\n{WHOLE}```", CONTINUED, continues=False))["f"](7) == 7


@pytest.mark.parametrize("text", ["", "I cannot do that.", "Sure", "```python\ndef f(x:\n```", "<think>never ends"])
def test_text_without_a_program_stays_text_that_fails(text):
    for problem in (CONTINUED, PLAIN, STDIO):
        program = program_of_answer(text, problem)
        assert not parses(program) or not defines(program.removeprefix(PREFIX), "f")


@pytest.mark.parametrize(
    "text",
    [
        "print(int(input()) + 1)\n",
        "First idea:\n```python\nprint(input())\n```\nBetter:\n```python\nprint(int(input()) + 1)\n```\nOutput:\n```\n2\n```",
        "```\nprint(int(input()) + 1)\n```",
        "Sure\n\n~~~\nprint(int(input()) + 1)\n~~~\n```text\n2\n```",
    ],
)
def test_a_program_for_stdin_is_the_last_python_block(text):
    assert program_of_answer(text, STDIO).strip() == "print(int(input()) + 1)"


def test_future_imports_come_before_prompt_and_preamble():
    future = "from __future__ import annotations\n"
    for text in (future + WHOLE, f"```python\n{future}{WHOLE}```", f'"""Doc."""\n{future}{WHOLE}'):
        problem = Problem("h", "q", entry_point="f", code_prefix=PREFIX, preamble="from typing import *")
        program = program_of_answer(text, problem)
        assert program.startswith(future + "from typing import *\nimport math") and run(program)["f"](7) == 7
    odd = "from __future__ import (\n    annotations,\n); x = 1\ndef f(x): return x\n"
    assert run(whole_program(odd, CONTINUED))["x"] == 1
    quoted = f'def f(x):\n    """\n{future}    """\n    return x\n'
    assert whole_program(quoted, CONTINUED).endswith(quoted)


def test_a_prompt_that_ends_in_a_signature_still_gives_its_imports():
    problem = Problem("h", "q", entry_point="f", code_prefix="import math\n\ndef f(x):\n")
    assert run(program_of_answer("def f(x):\n    return math.floor(x)\n", problem))["f"](7.5) == 7
    assert run(program_of_answer("    return math.floor(x)\n", problem))["f"](7.5) == 7


MIDDLE = Problem(
    "i",
    "q",
    entry_point="f",
    code_prefix="def f(x):\n    if x:\n",
    suffix="    return 0\n",
    tests=("assert f(1) == 1",),
)


@pytest.mark.parametrize("text", ["        return x\n", "        return x", "```python\n        return x\n```", WHOLE])
def test_infilling_puts_the_answer_between_prompt_and_suffix(text):
    if text.endswith("x"):
        assert not parses(continuation(text, MIDDLE))
        text += "\n"
    assert run(program_of_answer(text, MIDDLE))["f"](7) == 7


def test_a_class_solution_is_what_a_leetcode_problem_asks_for():
    program = "class Solution:\n    def f(self, x):\n        return x\n"
    for entry_point in ("f", "Solution().f"):
        problem = Problem("l", "q", entry_point=entry_point, preamble="from typing import *")
        answer = f"Usage:\n```python\nSolution().f(1)\n```\n```python\n{program}```"
        assert program_of_answer(answer, problem) == f"from typing import *\n{program}"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        "> " * 50_000 + "```\n" * 1000,
        "- " * 50_000,
        "```\n" * 20_000,
        "`" * 200_000,
        "<think>" * 20_000,
        "import " + "a." * 30_000 + "a\n",
        "x = 1\n" * 100_000,
        "<|" + " " * 300_000,
        "def f(x):\n" * 20_000,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_hostile_texts_cost_little(text):
    started = time.process_time()
    for problem in (CONTINUED, PLAIN, STDIO):
        program_of_answer(text, problem)
    assert time.process_time() - started < 15


def test_only_the_first_of_very_many_blocks_are_read():
    block = "```python\ndef f(x): return {}\n```\n"
    assert len(code_blocks(block.format(0) * 20_000)) == 100
    started = time.process_time()
    program_of_answer("".join(map(block.format, range(20_000))), Problem("p", "q", ("assert f(1) == 2",), "f"))
    assert time.process_time() - started < 3.0


def test_blocks_follow_commonmark():
    text = "a\n```py x\n1\n``\n~~~\n````\n\n    ```\n    no\n    ```\n\n~~~ `x` y\n2\n~~~ no\n~~~~  \n```\n3"
    assert code_blocks(text) == [("py", "1\n``\n~~~\n"), ("`x`", "2\n~~~ no\n"), ("", "3")]
