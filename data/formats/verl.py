"""Sets in verl's form: chat messages as the prompt, the tests in ``reward_model.ground_truth``."""

from __future__ import annotations

from couplet.data.formats.cases import read_tests
from couplet.data.formats.columns import Row, chat, column, identifier, need, text
from couplet.data.formats.competition import PREAMBLE
from couplet.data.problem import Problem


def verl(row: Row) -> Problem:
    """verl's Parquet (Eurus-2-RL's prime_code and its like): tests in any form of `data.formats.cases`."""
    need(row, "verl", "prompt", "reward_model.ground_truth")
    question, system = chat(row, "prompt")
    source = text(row, "data_source", "verl")
    function = column(row, "extra_info.fn_name") or column(row, "extra_info.func_name")
    fields = read_tests("reward_model.ground_truth", column(row, "reward_model.ground_truth"), function)
    named = next((name for name in ("id", "task_id", "index") if column(row, f"extra_info.{name}") is not None), None)
    number = identifier(row, f"extra_info.{named}") if named else ""
    return Problem(
        problem_id=f"{source}/{number}" if number else "",
        question=question,
        preamble=PREAMBLE if "calls" in fields else "",
        source=source,
        metadata={"system": system} if system else {},
        **fields,
    )
