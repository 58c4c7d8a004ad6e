"""`vllm serve` in its own environment: vLLM pins another torch, so only its protocol is used."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from couplet.configs.schema import ConfigError
from couplet.serving.completions import Client, EndpointError

KEEPER = Path(__file__).with_name("vllm_keeper.py")
LOG_LINES = 15  # shown in an error
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
POLL_SECONDS = 0.5
HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


class VllmServer:
    """One server process and everything it starts; all of it ends on `close`, or with the owner's process.

    Attributes:
        url: address of the protocol, http://HOST:PORT/v1.
        key: the bearer token of a request.
        log: the server's output.
    """

    def __init__(
        self, model: str, port: int, *, python: str | None = None, options: Sequence[str] = (), host: str = "127.0.0.1"
    ) -> None:
        """Start the server; it is not ready yet.

        Args:
            model: folder or hub name of an autoregressive model.
            port: a free port to listen on.
            python: interpreter of the environment with vLLM; by default this one, or the `vllm` on the path.
            options: further options of `vllm serve`.
            host: address to listen on.

        Raises:
            ConfigError: vLLM is missing.
        """
        self.url, self.key = f"http://{host}:{port}/v1", secrets.token_hex(16)
        command = [*serve_command(python), model, "--host", host, "--port", str(port), *options]
        self.folder = Path(tempfile.mkdtemp(prefix="couplet-vllm-"))
        self.log = self.folder / "server.log"
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), str(self.folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | {"VLLM_API_KEY": self.key},
                start_new_session=True,
            )

    def wait_ready(self, timeout: float) -> None:
        """Wait until the server answers. `ConfigError` with the end of its log if it ends or takes too long."""
        deadline = time.monotonic() + timeout
        client = Client(self.url, api_key=self.key, retries=0, timeout=5.0)
        while True:
            try:
                client.models()
                return
            except EndpointError:
                pass
            if self.process.poll() is not None:
                raise ConfigError(f"vllm serve ended with code {self.process.returncode}; {self._tail()}")
            if time.monotonic() > deadline:
                raise ConfigError(f"vllm serve was not ready after {timeout:.0f} s; {self._tail()}")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End the server and every process it started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return "its last words:\n" + "\n".join(f"  {line}" for line in lines) if lines else "it said nothing"


def serve_command(python: str | None) -> list[str]:
    """The command of `vllm serve`, without its arguments. `ConfigError` without vLLM."""
    module = ["-m", "vllm.entrypoints.cli.main", "serve"]
    if python is not None:
        found = shutil.which(python)
        if found is None:
            raise ConfigError(f"--vllm-python {python}: no such interpreter")
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        if subprocess.run([found, "-c", HAS_VLLM], env=environment, check=False).returncode != 0:
            raise ConfigError(
                f"--vllm-python {python}: has no vLLM; install it there with {python} -m pip install vllm"
            )
        return [found, *module]
    if importlib.util.find_spec("vllm") is not None:
        return [sys.executable, *module]
    found = shutil.which("vllm")
    if found is None:
        raise ConfigError(
            "--vllm: vLLM is not installed here. It pins its own torch: make an environment for it and name its "
            "interpreter with --vllm-python, or give the address of a running server with --endpoint"
        )
    return [found, "serve"]
