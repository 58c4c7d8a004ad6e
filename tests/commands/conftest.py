"""A run folder with a policy of random weights, problem files, and a completions server, for the tests of the commands."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from couplet.commands import main
from couplet.configs.schema import ShapeConfig
from couplet.data.tokenizer import CHAT_END, FILLER, MASK, PAD, train_tokenizer

SAMPLER = "sampler: {steps: 4, completion_length: 8, temperature: 1.0}\nsandbox: {memory_mb: 256}\n"
TEXTS = ["```python\ndef f(x):\n    return x + 1\n```", "Write a function f that returns x plus one."] * 10


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """What `train` leaves behind: config, metrics, summary, curve and a policy."""
    from couplet.model.policy import DiffusionPolicy
    from couplet.model.tokens import TokenIds

    root = tmp_path_factory.mktemp("runs") / "toy"
    tokenizer = train_tokenizer(TEXTS, size=160)
    (root / "words").mkdir(parents=True)
    tokenizer.save(root / "words")
    special = (tokenizer.id(name) for name in (MASK, PAD, PAD, PAD, FILLER))
    policy = DiffusionPolicy.from_shape(
        ShapeConfig(hidden=16, layers=1, heads=2, kv_heads=1, ffn=32, embedding_std=0.5),
        len(tokenizer),
        TokenIds(*special, end=(tokenizer.id(CHAT_END),)),
        seed=0,
        tokenizer_folder=root / "words",
    )
    policy.save_pretrained(root / "policy")
    (root / "config.yaml").write_text(f"name: toy\nseed: 5\nruns_dir: {root.parent}\n{SAMPLER}")
    (root / "run.json").write_text('{"started": 1700000000.0}')
    (root / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5}\n{"step": 2, "reward_mean": 0.7}\n')
    summary = {"pass_at_1_before": 0.25, "pass_at_1_after": 0.5, "steps": 2, "seed": 5}
    summary["ar_ness"] = {
        "before": {"0.2": {"local": 0.5, "global": 0.6}},
        "after": {"0.2": {"local": 0.7, "global": 0.8}},
    }
    (root / "summary.json").write_text(json.dumps(summary))
    (root / "reward.png").write_bytes(b"\x89PNG")
    return root


@pytest.fixture(scope="session")
def maskless(run_folder, tmp_path_factory) -> Path:
    """A folder of an autoregressive model: no mask token in configuration or tokenizer."""
    folder = tmp_path_factory.mktemp("maskless") / "policy"
    shutil.copytree(run_folder / "policy", folder)
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"], fields["filler_token_id"], fields["end_token_ids"]
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "qwen2"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<|mask|>", "<|one|>").replace("<|dlm_pad|>", "<|two|>")
        (folder / name).write_text(text)
    roles = json.loads((folder / "tokenizer_config.json").read_text())
    roles.pop("mask_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory) -> Path:
    """Four problems in MBPP's format."""
    path = tmp_path_factory.mktemp("problems") / "mbpp.jsonl"
    rows = [
        {
            "task_id": number,
            "text": f"Write a function f that adds {number}.",
            "code": f"def f(x):\n    return x + {number}",
            "test_list": [f"assert f(1) == {1 + number}", f"assert f(5) == {5 + number}"],
        }
        for number in range(601, 605)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def command(capsys):
    """Runs one command line; (exit code, output, error output)."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


@pytest.fixture
def server():
    """A local server that speaks the completions protocol: sample i adds i % 2 to the right answer."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer({"data": [{"id": "toy-coder"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            number = next(n for n in range(601, 605) if str(n) in prompt)
            programs = [f"def f(x):\n    return x + {number + i % 2}" for i in range(body["n"])]
            if "messages" in body:
                texts = [f"Sure!\n```python\n{program}\n```\nThat is all." for program in programs]
                choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(texts)]
            else:
                choices = [{"index": i, "text": text} for i, text in enumerate(programs)]
            self.answer({"choices": choices})

        def answer(self, tree):
            data = json.dumps(tree).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    http.asked = asked
    http.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


FAKE_VLLM = Path(__file__).parent / "fake_vllm"


@pytest.fixture
def vllm_python(tmp_path) -> Path:
    """An interpreter of an environment that has (a stand-in for) vLLM."""
    path = tmp_path / "vllm-env-python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE_VLLM} exec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path
