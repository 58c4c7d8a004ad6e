"""The completions client against a local server that speaks the protocol, and ratings that resume."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from couplet.data.formats.parquet import ProblemFileError
from couplet.data.jsonl import LineError
from couplet.data.problem import Problem
from couplet.data.rate import Rating, rate, read_completions, read_ratings, select_level
from couplet.serving.completions import Client, EndpointError, Sampling


class Server:
    """A stand-in completions server: answers from `reply`, fails as `faults` says, records what it was asked."""

    def __init__(self):
        self.requests, self.faults, self.under_way, self.most = [], [], 0, 0
        self.barrier = None
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send(200, {"data": [{"id": "tiny-coder"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((self.path, body, self.headers.get("Authorization")))
                    fault = server.faults.pop(0) if server.faults else None
                    server.under_way += 1
                    server.most = max(server.most, server.under_way)
                if server.barrier is not None:
                    server.barrier.wait(timeout=60)
                with server.lock:
                    server.under_way -= 1
                if fault is not None:
                    status, headers, content = fault
                    self.send(status, content, headers)
                    return
                prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
                texts = [f"{prompt}/{i}" for i in range(body["n"])]
                key = (lambda t: {"message": {"content": t}}) if "messages" in body else (lambda t: {"text": t})
                choices = [{"index": i, **key(text)} for i, text in enumerate(texts)]
                self.send(200, {"choices": choices[::-1]})

            def send(self, status, content, headers=()):
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    found = Server()
    yield found
    found.close()


def test_both_forms_of_the_protocol(server):
    sampling = Sampling(samples=2, max_tokens=9, temperature=0.5, top_p=0.9, stop=("\n\n",), seed=7)
    assert Client(server.url, chat=False, api_key="k").complete("p", sampling, index=3) == ["p/0", "p/1"]
    path, body, key = server.requests[0]
    assert path == "/v1/completions" and key == "Bearer k"
    expected = {"model": "tiny-coder", "n": 2, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "prompt": "p"}
    assert body == {**expected, "stop": ["\n\n"], "seed": 10}
    assert Client(server.url, model="m", system="s").complete("q", Sampling()) == ["q/0"]
    path, body, key = server.requests[1]
    assert path == "/v1/chat/completions" and key is None and body["model"] == "m" and "seed" not in body
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]


def test_many_prompts_keep_their_order_and_run_side_by_side(server):
    server.barrier = threading.Barrier(4)  # answers only once four requests are under way
    client = Client(server.url, chat=False, concurrency=4)
    found = list(client.complete_many((f"p{i}" for i in range(8)), Sampling()))
    assert found == [[f"p{i}/0"] for i in range(8)] and server.most == 4


def test_transient_faults_are_retried_with_growing_pauses(server, caplog):
    pauses = []
    server.faults = [(503, [], b"busy"), (429, [("Retry-After", "3")], b"slow down"), (500, [], b"oops")]
    client = Client(server.url, chat=False, backoff=0.5, sleep=pauses.append)
    assert client.complete("p", Sampling()) == ["p/0"]
    assert pauses == [0.5, 3.0, 2.0] and len(server.requests) == 4
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        f"HTTP {code}: {text}; it is tried again" for code, text in ((503, "busy"), (429, "slow down"), (500, "oops"))
    ]


def test_faults_that_a_retry_cannot_fix_are_named_at_once(server):
    client = Client(server.url, chat=False, sleep=lambda _: pytest.fail("no retry wanted"))
    server.faults = [(400, [], {"error": {"message": "max_tokens too large"}})]
    with pytest.raises(EndpointError, match=r"/completions: HTTP 400: .*max_tokens too large"):
        client.complete("p", Sampling())
    server.faults = [(200, [], b"<html>")]
    with pytest.raises(EndpointError, match="the reply is not a JSON object"):
        client.complete("p", Sampling())
    server.faults = [(200, [], {"choices": [{"index": 0}]})]
    with pytest.raises(EndpointError, match="not a response of the protocol"):
        client.complete("p", Sampling())
    server.faults = [(200, [], {"choices": [{"text": "a"}]})]
    with pytest.raises(EndpointError, match="1 completions for n = 2"):
        client.complete("p", Sampling(samples=2))


def test_a_server_that_is_not_there_is_one_clear_error():
    server = Server()
    server.close()
    pauses = []
    client = Client(server.url, retries=2, sleep=pauses.append)
    with pytest.raises(EndpointError, match=r"/models: cannot be reached: .* after 3 attempts; is the server running"):
        client.complete("p", Sampling())
    assert pauses == [0.5, 1.0]
    with pytest.raises(EndpointError, match="is not the address of a server"):
        Client("localhost:8000")


PROBLEMS = [Problem(f"p{i}", f"q{i}", tests=("assert f()",)) for i in range(5)]


def sample(problems):
    return [[f"{problem.question}-{i}" for i in range(2)] for problem in problems]


def judge(problems, completions):
    assert all(text.startswith(p.question) for p, texts in zip(problems, completions) for text in texts)
    return [[1.0, None if problem.problem_id == "p3" else 0.5] for problem in problems]


def test_an_interrupted_rating_resumes_where_it_stopped(tmp_path):
    path = tmp_path / "ratings.jsonl"
    first = rate(PROBLEMS, sample, judge, path, batch=2)
    assert [next(first), next(first)] == [Rating("p0", (1.0, 0.5)), Rating("p1", (1.0, 0.5))]
    first.close()
    path.write_bytes(path.read_bytes() + b'{"problem_id": "p2", "ra')
    asked = []

    def counting(problems):
        asked.extend(problem.problem_id for problem in problems)
        return sample(problems)

    ratings = list(rate(PROBLEMS, counting, judge, path, batch=2))
    assert asked == ["p2", "p3", "p4"] and [r.problem_id for r in ratings] == ["p0", "p1", "p2", "p3", "p4"]
    assert ratings[3] == Rating("p3", (1.0,), lost=1) and ratings[3].solved == 1
    assert read_ratings(path) == ratings
    path.write_text('{"problem_id": "p0", "rates": 1, "lost": 0}\n')
    with pytest.raises(LineError, match=r"ratings\.jsonl, line 1: not a rating"):
        read_ratings(path)


def test_texts_are_kept_as_they_come_and_not_sampled_again(tmp_path):
    files = {"ratings_file": tmp_path / "r.jsonl", "completions_file": tmp_path / "c.jsonl"}

    def breaking(problems):
        yield from sample(problems[:3])
        raise EndpointError("gone")

    with pytest.raises(EndpointError, match="gone"):
        list(rate(PROBLEMS, breaking, judge, **files))
    assert read_ratings(files["ratings_file"]) == []
    assert read_completions(files["completions_file"]) == dict(zip(["p0", "p1", "p2"], sample(PROBLEMS)))
    asked = []

    def counting(problems):
        asked.extend(problem.problem_id for problem in problems)
        return sample(problems)

    assert len(list(rate(PROBLEMS, counting, judge, **files))) == 5 and asked == ["p3", "p4"]
    assert len(read_completions(files["completions_file"])) == 5


def test_levels_follow_from_ratings_and_the_unrated_are_counted():
    rates = [(0.0, 0.4), (0.5, 0.5), (0.9, 1.0), (1.0, 1.0)]
    ratings = [Rating(f"p{i}", found) for i, found in enumerate(rates)]
    kept, choice = select_level(PROBLEMS, ratings, "hard")
    # P20 of the means 0.2, 0.5, 0.95, 1.0 lies at index 0.6: 0.2 + 0.6 * 0.3 = 0.38.
    assert choice.thresholds["mean_p20"] == pytest.approx(0.38)
    assert [p.problem_id for p in kept] == ["p0"] and kept[0].metadata == {"pass_rate": 0.2}
    assert choice.dropped["no pass rate"] == 1
    with pytest.raises(ProblemFileError, match="none of 5 problems has a rating"):
        select_level(PROBLEMS, [Rating("p0", (), 2)], "hard")


def test_an_endpoint_rates_problems_end_to_end(server, tmp_path):
    client = Client(server.url)

    def from_endpoint(problems):
        return list(client.complete_many((p.question for p in problems), Sampling(samples=2)))

    def count_even(problems, completions):
        return [[float(text.endswith("/0")) for text in texts] for texts in completions]

    ratings = list(rate(PROBLEMS, from_endpoint, count_even, tmp_path / "r.jsonl"))
    assert [r.rates for r in ratings] == [(1.0, 0.0)] * 5
