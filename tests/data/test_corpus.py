"""Laws of the supervised corpora: resume is exact, nothing is lost or doubled."""

import ast
import gzip
import json
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from couplet.data.corpora.corpus import InstructBatches, PackedBatches
from couplet.data.corpora.open import open_corpus
from couplet.data.corpora.stream import Stream
from couplet.data.sources import SourceError, open_source
from couplet.data.tokenizer import CHAT_END, FILLER, MASK, PAD, tiny_tokenizer
from tests.data.reading import pairs, texts


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def write_jsonl(path, rows):
    path.parent.mkdir(exist_ok=True)
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


OF_STREAM = ("seed", "buffer", "epochs", "part", "validation_share")


def batches_of(kind, columns, source, tokenizer, **options):
    stream = {name: options.pop(name) for name in OF_STREAM if name in options}
    return kind(Stream(source, columns, **stream), tokenizer, **options)


instruct_batches = partial(batches_of, InstructBatches, ("prompt", "answer"))
packed_batches = partial(batches_of, PackedBatches, ("text",))


def instruct(tokenizer, **options):
    return instruct_batches("katas:tune-lists", tokenizer, length=68, canvas=32, batch=8, seed=3, **options)


def packed(tokenizer, **options):
    return packed_batches("katas:tune-strings", tokenizer, length=48, batch=4, seed=3, **options)


def test_instruct_row_is_prompt_then_answer_end_filler(tokenizer, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Define f.", "answer": "def f(n):"}])
    batch = next(instruct_batches(source, tokenizer, length=24, canvas=10, batch=1))
    end, filler, pad = tokenizer.id(CHAT_END), tokenizer.id(FILLER), tokenizer.id(PAD)
    prompt, answer = tokenizer.chat_prompt("Define f."), tokenizer.encode("def f(n):")
    assert len(prompt) == 11 and len(answer) == 5
    assert batch.tokens_BL.tolist() == [[pad] * 3 + prompt + answer + [end] + [filler] * 4]
    assert batch.attention_BL.tolist() == [[False] * 3 + [True] * 21]
    assert batch.answer_BL.tolist() == [[False] * 14 + [True] * 10]
    assert batch.tokens_BL.dtype == np.int32


def test_packed_rows_number_their_documents_from_zero(tokenizer, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "n n n"}])
    batch = next(packed_batches(source, tokenizer, length=6, batch=2))
    n, space_n, end = tokenizer.id("n"), tokenizer.id(" n"), tokenizer.id(PAD)
    assert batch.tokens_BL.tolist() == [
        [n, space_n, space_n, end, n, space_n],
        [space_n, end, n, space_n, space_n, end],
    ]
    assert batch.document_BL.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]]


def test_special_tokens_spelled_out_in_a_corpus_mask_nothing_and_end_no_document(tokenizer, tmp_path):
    spelled = f"n {MASK}{PAD}{CHAT_END}"
    length = len(tokenizer.encode(spelled)) + 1
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": spelled, "prompt": spelled, "answer": spelled}])
    documents = next(packed_batches(source, tokenizer, length=length, batch=1))
    assert documents.document_BL.tolist() == [[0] * length]
    answers = next(instruct_batches(source, tokenizer, length=4 * length, canvas=length, batch=1))
    for tokens in (documents.tokens_BL[0], answers.tokens_BL[0, -length:]):
        assert tokenizer.decode(tokens, skip_special=False) in (spelled + PAD, spelled + CHAT_END)
        assert not np.isin(tokens[:-1], list(tokenizer.special.values())).any()
    assert tokenizer.id(MASK) not in answers.tokens_BL


@pytest.mark.parametrize("make", [instruct, packed])
@pytest.mark.parametrize("buffer", [7, 10_000])
def test_resume_equals_uninterrupted(tokenizer, make, buffer):
    straight = make(tokenizer, buffer=buffer)
    for _ in range(5):
        next(straight)
    state = json.loads(json.dumps(straight.state()))
    resumed = make(tokenizer, buffer=buffer)
    resumed.restore(state)
    for _ in range(40):
        assert np.array_equal(next(resumed).tokens_BL, next(straight).tokens_BL)


def test_another_seed_gives_another_order_and_a_state_of_it_is_refused(tokenizer):
    one = instruct_batches("katas:tune-lists", tokenizer, length=68, canvas=32, batch=8, seed=1)
    assert not np.array_equal(next(one).tokens_BL, next(instruct(tokenizer)).tokens_BL)
    with pytest.raises(ValueError, match="the saved position belongs to"):
        instruct(tokenizer).restore(one.state())


@pytest.mark.parametrize("buffer", [4, 100])
def test_an_epoch_gives_every_row_once_in_an_order_of_its_own(tmp_path, buffer):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name}{i}"} for i in range(10)])
    stream = Stream(str(tmp_path), ("text",), seed=0, buffer=buffer)
    first, second = [next(stream)[0] for _ in range(20)], [next(stream)[0] for _ in range(20)]
    assert sorted(first) == sorted(second) == sorted(f"{name}{i}" for name in "ab" for i in range(10))
    assert first != second and stream.epoch == 1


def test_training_and_validation_parts_are_complements():
    def rows(part):
        return sorted(Stream("katas:tune", ("prompt", "answer"), epochs=1, part=part, validation_share=0.1))

    train, validation = rows("train"), rows("validation")
    assert sorted(train + validation) == rows("all")
    assert 180 < len(validation) < 310 and not set(train) & set(validation)


def test_examples_that_do_not_fit_are_dropped_and_counted(tokenizer, tmp_path):
    rows = [{"prompt": "n", "answer": "n"}, {"prompt": "n" * 99, "answer": "n"}, {"prompt": "n", "answer": "n" * 99}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    batches = instruct_batches(source, tokenizer, length=20, canvas=8, batch=1, epochs=1)
    assert len(list(batches)) == 1
    assert batches.counts == {"examples": 1, "prompts_too_long": 1, "answers_too_long": 1}
    nothing = instruct_batches(write_jsonl(tmp_path / "b.jsonl", rows[1:]), tokenizer, length=20, canvas=8, batch=1)
    with pytest.raises(SourceError, match="no example fits"):
        next(nothing)


def test_every_kind_of_source_gives_the_same_rows_and_skips(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": f"a{i}"} for i in range(9)]
    sources = [write_jsonl(tmp_path / "a.jsonl", rows), write_jsonl(tmp_path / "b.jsonl.gz", rows)]
    (tmp_path / "c.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=4)
    for source in [*sources, str(tmp_path / "c.json"), str(tmp_path / "d.parquet")]:
        assert list(pairs(source)) == [(row["prompt"], row["answer"]) for row in rows]
        (shard,) = open_source(source)
        assert [row for _, row in shard.read(5)] == rows[5:]
    assert len(list(pairs("+".join(sources)))) == 18


def test_a_folder_of_text_files_is_one_document_per_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "sub" / "b.txt").write_text("hello")
    assert list(texts(str(tmp_path))) == ["x = 1\n", "hello"]


def test_faults_name_file_and_line(tmp_path):
    broken = tmp_path / "x.jsonl"
    broken.write_text('{"text": "a"}\n\n{"text": \n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"x\.jsonl:3: broken JSON"):
        list(texts(str(broken)))
    with pytest.raises(SourceError, match=r"y\.jsonl:1: no column 'text'; it has code"):
        list(texts(write_jsonl(tmp_path / "y.jsonl", [{"code": "a"}])))
    with pytest.raises(SourceError, match=r"column 'text' holds int"):
        list(texts(write_jsonl(tmp_path / "z.jsonl", [{"text": 3}])))
    with pytest.raises(SourceError, match="no such file or folder"):
        open_source(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "e.jsonl").touch()
    with pytest.raises(SourceError, match="no example in it"):
        next(Stream(str(tmp_path / "e.jsonl"), ("text",)))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        list(texts(str(tmp_path / "bad.parquet")))


def test_no_rows_and_a_canvas_without_prompt_are_refused(tokenizer):
    with pytest.raises(ValueError, match="batch = 0"):
        instruct_batches("katas:tune", tokenizer, length=64, canvas=32, batch=0)
    with pytest.raises(ValueError, match="canvas = 32"):
        instruct_batches("katas:tune", tokenizer, length=32, canvas=32, batch=1)


def test_a_hub_data_set_streams_and_skips(tmp_path):
    rows = [{"prompt": f"p{i}", "answer": f"a{i}"} for i in range(6)]
    write_jsonl(tmp_path / "set" / "train.jsonl", rows)
    source = f"hub:{tmp_path / 'set'}:train"
    assert list(pairs(source)) == [(row["prompt"], row["answer"]) for row in rows]
    (shard,) = open_source(source)
    assert [row for _, row in shard.read(4)] == rows[4:]
    with pytest.raises(SourceError, match=r"hub:.*: the data set cannot be opened"):
        list(pairs(f"hub:{tmp_path / 'absent'}"))


def test_an_infilling_row_has_the_rest_of_the_program_around_its_canvas(tokenizer):
    batches = instruct_batches("katas:tune", tokenizer, length=100, canvas=32, batch=8, seed=3, infill=0.5)
    examples = set(pairs("katas:tune"))
    end, filler = tokenizer.id(CHAT_END), tokenizer.id(FILLER)
    kinds = []
    for tokens, real, canvas in (row for _ in range(4) for row in zip(*vars(next(batches)).values())):
        first = int(canvas.argmax())
        before, middle, after = tokens[real & ~canvas & (np.arange(100) < first)], tokens[canvas], tokens[first + 32 :]
        assert canvas.sum() == 32 and real[canvas].all()
        length = middle.tolist().index(end)
        assert set(middle[length + 1 :]) <= {filler} and (len(after) == 0 or after[-1] == end)
        question, _, opened = tokenizer.decode(before, skip_special=False).partition("<|im_start|>assistant\n")
        text = opened + tokenizer.decode(middle[:length]) + tokenizer.decode(after[:-1])
        asked = question.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n")
        assert (asked, text) in examples
        kinds.append(len(after) > 0)
    assert 8 < sum(kinds) < 24


def test_an_infilling_corpus_resumes_exactly(tokenizer):
    test_resume_equals_uninterrupted(tokenizer, partial(instruct, infill=0.7), 7)


def test_the_standard_library_and_a_problem_set_are_corpora(tmp_path):
    (shard,) = open_corpus("stdlib:pairs")
    found = [row for _, row in islice(shard.read(0), 40)]
    assert [row for _, row in islice(shard.read(38), 2)] == found[38:]
    for row in found:
        program = row["answer"].removeprefix("```python\n").removesuffix("\n```")
        (function,) = ast.parse(program).body
        assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function) is None
        assert row["prompt"].startswith(f"Write a Python function `def {function.name}(")
    (text,) = open_corpus("stdlib:text")
    assert "def " in next(iter(text.read(5)))[1]["text"]
    rows = [
        {"text": "Add one.", "code": "def f(x):\r\n  return x + 1", "task_id": 601, "test_list": ["assert f(1) == 2"]}
    ]
    rows.append(rows[0] | {"task_id": 11})  # of the test split
    (solutions,) = open_corpus("problems:" + write_jsonl(tmp_path / "mbpp.jsonl", rows) + "@train")
    ((place, row),) = solutions.read(0)
    assert place == "MBPP/601" and "Add one." in row["prompt"]
    assert row["answer"].replace("\r", "") == "```python\ndef f(x):\n  return x + 1\n```"
    with pytest.raises(SourceError, match="choose stdlib:text or stdlib:pairs"):
        open_corpus("stdlib:code")
