"""Damaged files, mixed folders, files without text, hub configurations and odd endpoints: named, never a traceback."""

import gzip
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from couplet.data import sources
from couplet.data.corpora.stream import Stream
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.problem_sets import load_problems
from couplet.data.sources import TEXTS_PER_SHARD, SourceError, open_source
from couplet.serving.completions import Client, EndpointError
from tests.data.reading import pairs, prepare, texts

MBPP = {"task_id": 12, "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}
BINARY = b"\x89PNG\xff\xfe\x00"


def lines(count):
    return "".join(json.dumps({"text": f"row {i} {i * i}"}) + "\n" for i in range(count)).encode()


def rows_of(path):
    (shard,) = open_source(str(path))
    return list(shard.read(0))


@pytest.mark.parametrize("content", [json.dumps([MBPP]), f"{json.dumps(MBPP)}\n" * 500])
def test_a_truncated_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(content.encode())[:-12])
    with pytest.raises(SourceError, match=r"x\.json\.gz.*: not readable as text: "):
        rows_of(path)
    with pytest.raises(ProblemFileError, match=r"x\.json\.gz.*: not readable as text: "):
        load_problems(str(path))


def test_a_flipped_bit_in_a_gzip_file_is_named_with_its_line(tmp_path):
    data = bytearray(gzip.compress(lines(1500)))
    path, faults = tmp_path / "x.jsonl.gz", set()
    for place in range(200, len(data) - 20, 300):
        damaged = data.copy()
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"x\.jsonl\.gz:\d+: ") as caught:
            rows_of(path)
        faults.add(type(caught.value.__cause__).__name__)
    assert "error" in faults  # zlib.error


@pytest.mark.parametrize("content", [b'[{"text": "caf\xe9"}]', b'[{"text": "' + b"a" * 9000 + b'caf\xe9"}]'])
def test_a_json_file_that_is_not_utf_8_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.json: not readable as text: 'utf-8' codec"):
        rows_of(tmp_path / "x.json")


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"row {i} {i * i}" for i in range(5000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:2000] = b"\x55" * 1800
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"x\.parquet: not a readable Parquet file"):
        rows_of(path)


def text_folder(folder, count, binary=()):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:04}.py").write_bytes(BINARY if i in binary else f"x = {i}\n".encode())
    return folder


def test_a_folder_of_text_with_one_record_file_is_refused_with_both_counts(tmp_path):
    folder = text_folder(tmp_path / "code", 30)
    (folder / "tests").mkdir()
    (folder / "tests" / "fixture.jsonl").write_bytes(lines(1))
    with pytest.raises(
        SourceError, match=r"holds 1 JSONL or Parquet files \(first .*fixture\.jsonl\) beside 30 other .*0000\.py"
    ):
        open_source(str(folder))


def test_what_tells_about_records_may_lie_beside_them(tmp_path):
    folder = tmp_path / "set"
    (folder / ".cache").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines(2))
    for name in ("README.md", "LICENSE", "dataset_infos.json", "_SUCCESS", ".gitattributes", ".cache/lock"):
        (folder / name).write_text("about")
    assert len(list(texts(str(folder)))) == 2


def test_a_corpus_leaves_hidden_folders_out(tmp_path):
    folder = text_folder(tmp_path / "code", 2)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    assert list(texts(str(folder))) == ["x = 0\n", "x = 1\n"]


def test_files_that_are_not_utf_8_are_skipped_counted_and_the_first_is_named(tmp_path, caplog):
    folder = text_folder(tmp_path / "code", 30, binary=range(4, 16))
    with caplog.at_level(logging.WARNING):
        assert list(texts(str(folder))) == [f"x = {i}\n" for i in range(30) if not 4 <= i < 16]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        f"skipped what is not UTF-8 text: {count} so far, first {folder / '0004.py'}" for count in (1, 10)
    ]
    caplog.clear()
    stream = Stream(str(folder), ("text",))
    assert len({next(stream) for _ in range(3 * 18)}) == 18
    assert len(caplog.records) == 2  # not once per epoch


@pytest.mark.parametrize("skip", [0, 1, 40, 59, 60, 61])
def test_a_skip_counts_rows_not_files(tmp_path, skip):
    folder = text_folder(tmp_path / "code", TEXTS_PER_SHARD, binary=(0, 7, 30, TEXTS_PER_SHARD - 1))
    (shard,) = open_source(str(folder))
    assert list(shard.read(skip)) == list(shard.read(0))[skip:]


@pytest.mark.parametrize("buffer", [7, 50, 10_000])
def test_text_files_are_sharded_and_a_stream_of_them_resumes_exactly(tmp_path, buffer):
    count, binary = 3 * TEXTS_PER_SHARD + 5, {3, 70, 71, 140, 196}
    folder = text_folder(tmp_path / "code", count, binary)
    assert len(open_source(str(folder))) == 4
    straight = Stream(str(folder), ("text",), seed=1, buffer=buffer)
    rows = [next(straight) for _ in range(2 * (count - len(binary)))]
    expected = sorted((f"x = {i}\n",) for i in range(count) if i not in binary)
    assert sorted(rows[: len(rows) // 2]) == sorted(rows[len(rows) // 2 :]) == expected
    for taken in (1, 50, 190, 200):
        stopped = Stream(str(folder), ("text",), seed=1, buffer=buffer)
        for _ in range(taken):
            next(stopped)
        resumed = Stream(str(folder), ("text",), seed=1, buffer=buffer)
        resumed.restore(json.loads(json.dumps(stopped.state())))
        assert [next(resumed) for _ in range(150)] == rows[taken : taken + 150]


def test_a_folder_without_any_text_is_an_error(tmp_path):
    stream = Stream(str(text_folder(tmp_path / "code", 3, binary=range(3))), ("text",))
    with pytest.raises(SourceError, match="no example in it"):
        next(stream)


@pytest.mark.parametrize("name", ["a.py", "b.txt", "C.MD"])
def test_a_single_text_file_is_one_document(tmp_path, name):
    (tmp_path / name).write_text("x = 1\n")
    assert list(texts(str(tmp_path / name))) == ["x = 1\n"]
    (shard,) = open_source(str(tmp_path / name))
    assert list(shard.read(1)) == []
    (tmp_path / name).write_bytes(BINARY)
    with pytest.raises(SourceError, match=f"{name}: not UTF-8 text"):
        list(texts(str(tmp_path / name)))


def hub_set(folder):
    """A data set of two configurations, the second of which has a broken row."""
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files: small.jsonl\n"
        "- config_name: broken\n  data_files: broken.jsonl\n---\n"
    )
    rows = [{"prompt": f"p{i}", "answer": f"a{i}"} for i in range(4)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "small.jsonl").write_text(content)
    (folder / "broken.jsonl").write_text(content + '{"prompt": "p", \n')
    return folder


def test_a_hub_set_is_read_by_configuration_and_split(tmp_path):
    folder = hub_set(tmp_path / "set")
    for source in (f"hub:{folder}@small:train", f"hub:{folder}@small"):
        assert list(pairs(source)) == [(f"p{i}", f"a{i}") for i in range(4)]
    with pytest.raises(SourceError, match=r"cannot be opened \(hub:NAME@CONFIG:SPLIT\): .*small") as caught:
        list(pairs(f"hub:{folder}"))
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="cannot be opened"):
        list(pairs(f"hub:{folder}@absent"))


def test_a_broken_row_of_a_hub_set_is_one_error(tmp_path):
    source = f"hub:{hub_set(tmp_path / 'set')}@broken:train"
    with pytest.raises(SourceError, match=r"hub:.*@broken:train: the data set cannot be (opened|read after row \d)"):
        list(pairs(source))


def test_a_connection_that_breaks_between_rows_is_one_error(monkeypatch):
    import datasets

    def rows():
        yield {"text": "a"}
        raise ConnectionError("gone\naway")

    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, streaming: rows())
    shard = sources.read_hub("name@config:test")
    assert next(shard) == ("hub:name@config:test: row 1", {"text": "a"})
    with pytest.raises(SourceError, match=r"cannot be read after row 1 .*: gone away"):
        next(shard)


def test_the_configuration_of_a_hub_set_is_not_a_split_of_a_file(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: full\n  data_files: full.jsonl\n---\n")
    (folder / "full.jsonl").write_text(json.dumps(MBPP) + "\n")
    source = f"hub:{folder}@full:train"
    assert [problem.problem_id for problem in load_problems(source)] == ["MBPP/12"]
    assert prepare("mbpp", source, tmp_path / "o.parquet").kept == 1


@pytest.fixture
def endpoint():
    """The address of a server that answers /models with what is put into `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            data = json.dumps(http.answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"data": []}, "the server offers no model"),
        ({"data": None}, "not a response of the protocol"),
        ({}, "not a response of the protocol"),
        ({"data": [{"name": "a"}]}, "not a response of the protocol"),
        ({"data": [{"id": None}]}, "not a response of the protocol"),
        ({"data": ["a"]}, "not a response of the protocol"),
        ({"data": {"id": "a"}}, "not a response of the protocol"),
    ],
)
def test_a_server_that_names_no_model_is_one_clear_error(endpoint, answer, named):
    endpoint.answer = answer
    client = Client(endpoint.url)
    for ask in (client.models, client.model_name):
        with pytest.raises(EndpointError, match=f"/models: {named}"):
            ask()
    endpoint.answer = {"data": [{"id": "a"}, {"id": "b"}]}
    assert client.model_name() == "a" and Client(endpoint.url, "c").model_name() == "c"
