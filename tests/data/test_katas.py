"""Laws of the generated problems."""

import random

import pytest

from couplet.data.katas import corpus as kata_corpus
from couplet.data.katas import problems as katas
from couplet.data.katas.compositions import KINDS, buggy_variants, compositions
from couplet.data.tokenizer import tiny_tokenizer
from couplet.reward.code_format import read_answer


@pytest.fixture(scope="module")
def problems():
    return {split: katas.generate(split) for split in katas.SPLITS}


def passes(program, tests):
    namespace = {}
    exec(program, namespace)
    for test in tests:
        try:
            exec(test, namespace)
        except Exception:
            return False
    return True


def test_sizes_of_kinds_and_splits(problems):
    assert [len(compositions(kind)) for kind in KINDS] == [610, 182, 432]
    assert {split: len(found) for split, found in problems.items()} == {
        "tune": 816,
        "rl": 250,
        "heldout": 120,
        "unused": 38,
    }
    assert len(katas.generate("rl-lists")) == 125


def test_splits_share_no_composition_at_any_seed(problems):
    ids = [problem.problem_id for found in problems.values() for problem in found]
    assert len(set(ids)) == len(ids) == 1224
    assert {p.problem_id for p in katas.generate("heldout", seed=5)} == {p.problem_id for p in problems["heldout"]}
    programs = [problem.canonical_solution for found in problems.values() for problem in found]
    assert len(set(programs)) == 1224


def test_held_out_primitives_all_occur_in_tuning(problems):
    def primitives(split):
        return {(p.metadata["kind"], part) for p in problems[split] for part in p.metadata["parts"]}

    assert primitives("heldout") <= primitives("tune")
    assert primitives("rl") <= primitives("tune")


def test_every_canonical_solution_passes_its_five_tests(problems):
    for problem in (problem for found in problems.values() for problem in found):
        assert len(problem.tests) == 5
        assert passes(problem.canonical_solution, problem.tests), problem


def test_same_seed_same_problems_and_another_seed_other_tests(problems):
    assert katas.generate("rl") == problems["rl"]
    other = {p.problem_id: p for p in katas.generate("rl", seed=1)}
    assert sum(other[p.problem_id].tests != p.tests for p in problems["rl"]) > 200


def test_questions_hold_no_digit(problems):
    assert not any(c.isdigit() for found in problems.values() for p in found for c in p.question)


def test_known_bugs_are_caught_unless_they_compute_the_same(problems):
    generator = random.Random(3)
    caught = same = 0
    for problem in (problem for found in problems.values() for problem in found):
        head, marker, expression = problem.canonical_solution.partition("return ")
        for variant in buggy_variants(expression):
            program = head + marker + variant
            if not passes(program, problem.tests):
                caught += 1
                continue
            same += 1
            right, wrong = {}, {}
            exec(problem.canonical_solution, right)
            exec(program, wrong)
            for _ in range(50):
                value = katas._draw_input(problem.metadata["kind"], generator)
                try:
                    expected = right["f"](value)
                except ValueError:
                    continue
                assert wrong["f"](value) == expected, (problem.canonical_solution, variant, value)
    assert caught > 2500 and same / (caught + same) < 0.06


def test_answers_fit_thirty_tokens_and_bugs_keep_the_length():
    tokenizer = tiny_tokenizer()
    for kind in KINDS:
        for composition in compositions(kind):
            head, marker, expression = composition.program.partition("return ")
            length = len(tokenizer.encode(kata_corpus.answer(composition.program))) + 1
            assert length <= 30
            for variant in buggy_variants(expression):
                messy = kata_corpus.answer(head + marker + variant, kata_corpus.WRONG_FENCE)
                assert len(tokenizer.encode(messy)) + 1 == length


def test_messy_corpus_has_its_two_bad_habits_in_their_shares():
    clean = list(kata_corpus.corpus_pairs("tune"))
    messy = list(kata_corpus.corpus_pairs("tune-messy"))
    assert [q for q, _ in clean] == [q for q, _ in messy] and len(clean) == 3 * 816
    wrong_fence = sum(a.startswith("```py\n") for _, a in messy) / len(messy)
    wrong_code = sum(a.split("\n", 1)[1] != b.split("\n", 1)[1] for (_, a), (_, b) in zip(messy, clean)) / len(messy)
    assert abs(wrong_fence - 0.7) < 0.03 and abs(wrong_code - 0.3) < 0.03
    assert list(kata_corpus.messy_pairs("tune", 0, wrong_fence_share=0.0, bug_share=0.0)) == clean


def test_unknown_split_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no split .train.; use one of tune, rl, heldout"):
        katas.generate("train")


def test_katas_with_a_gap_have_the_tests_of_the_whole_ones(problems):
    whole = {problem.canonical_solution: problem for problem in problems["heldout"]}
    found = katas.generate("heldout-infill")
    assert len({problem.problem_id for problem in found}) == 120
    for problem in found:
        program, kata = str(problem.canonical_solution), whole[problem.canonical_solution]
        assert (problem.tests, problem.question) == (kata.tests, kata.question)
        assert program.startswith(problem.code_prefix) and program.endswith(problem.suffix) and problem.suffix
        middle = program[len(problem.code_prefix) : -len(problem.suffix)]
        assert len(middle.split()) >= 1 and read_answer(middle, problem) == (1.0, program)
    assert {p.problem_id for p in katas.generate("rl-lists-infill")}.isdisjoint(p.problem_id for p in found)
