"""`vllm serve MODEL --host H --port P`: speaks the completions protocol; the model's name says how to misbehave."""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    """Every program is right for MBPP's made-up problem 601 alone."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.answer(401, {"error": "no key"})
            return
        self.answer(200, {"data": [{"id": "stand-in"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "```python\ndef f(x):\n    return x + 601\n```"
        choices = [{"index": i, "message": {"content": text}} for i in range(body["n"])]
        self.answer(200, {"choices": choices})

    def answer(self, status, tree):
        data = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main():
    """Serve, or fail as the model's name says."""
    assert sys.argv[1] == "serve", sys.argv
    model, options = sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2]))
    print(f"loading {model} with {options}", flush=True)
    if model == "broken":
        print("ValueError: no kernel for this device", flush=True)
        sys.exit(3)
    if model == "slow":
        time.sleep(600)
    # An engine in a session of its own, as vLLM starts them; where it writes its process id says the option.
    if "--engine-file" in options:
        engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        with open(options["--engine-file"], "w") as file:
            file.write(f"{os.getpid()} {engine.pid}")
    HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
