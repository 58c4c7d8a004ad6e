"""Token authentication of clusters: every mismatch is one line with its remedy, and no mistake for a missing cluster."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import ray
from ray._private.label_utils import validate_label_key, validate_label_value

from couplet.actors import authentication, ray_init
from couplet.actors.authentication import Answer, AuthenticationRefused, authenticate, probe
from couplet.configs.schema import ConfigError, RayConfig, RolloutConfig

ROOT = Path(__file__).parents[2]
SECRET = "a-token"


@pytest.fixture
def mode(monkeypatch):
    """RAY_AUTH_MODE is unset; whether token mode was turned on."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    turned_on = []
    monkeypatch.setattr(authentication, "enable_token_mode", lambda: turned_on.append(True))
    return turned_on


@pytest.fixture
def control_store():
    """`control_store(secret)`: HOST:PORT of a gRPC server that answers as Ray's control store; None accepts anyone."""
    servers = []

    def start(secret):
        def alive(request, context):
            sent = dict(context.invocation_metadata()).get("authorization")
            if secret is not None and sent != f"Bearer {secret}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        class Handler(grpc.GenericRpcHandler):
            def service(self, call):
                return grpc.unary_unary_rpc_method_handler(alive) if call.method == authentication.ALIVE else None

        server = grpc.server(ThreadPoolExecutor(2), handlers=(Handler(),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        servers.append(server)
        return address

    yield start
    for server in servers:
        server.stop(0)


def has(monkeypatch, secret):
    """This process finds `secret`."""
    monkeypatch.setattr(authentication, "token", lambda: secret)


def test_a_probe_tells_open_closed_and_absent_clusters_apart(control_store):
    closed, open_ = control_store(SECRET), control_store(None)
    assert probe(closed, None, 5) is Answer.REFUSED and probe(closed, "other", 5) is Answer.REFUSED
    assert probe(closed, SECRET, 5) is Answer.ACCEPTED and probe(open_, None, 5) is Answer.ACCEPTED
    assert probe("127.0.0.1:1", None, 0.5) is Answer.NONE


def test_the_right_token_turns_token_mode_on(control_store, mode, monkeypatch):
    has(monkeypatch, SECRET)
    authenticate(control_store(SECRET), RayConfig())
    assert mode == [True]


@pytest.mark.parametrize(
    ("secret", "said"), [(None, "and this process has none"), ("other", "and that of this process is another one")]
)
def test_a_missing_or_wrong_token_is_not_a_missing_cluster(control_store, mode, monkeypatch, secret, said):
    has(monkeypatch, secret)
    with pytest.raises(AuthenticationRefused) as refused:
        authenticate(control_store(SECRET), RayConfig())
    message = str(refused.value)
    assert f"the cluster asks for a token, {said}; `ray get-auth-token` on the cluster's head" in message
    assert "\n" not in message and SECRET not in message and not isinstance(refused.value, ray_init.NoCluster)
    assert not mode


def test_disabled_authentication_on_this_side_is_named(control_store, mode, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(AuthenticationRefused, match="but RAY_AUTH_MODE=disabled; unset RAY_AUTH_MODE"):
        authenticate(control_store(SECRET), RayConfig())


@pytest.mark.parametrize(
    ("loopback", "required", "refused"),
    [
        (True, None, False),
        (False, None, True),
        (True, True, True),
        (False, False, False),
    ],
)
def test_an_open_cluster_is_refused_unless_it_is_on_loopback(
    control_store, mode, monkeypatch, loopback, required, refused
):
    monkeypatch.setattr(authentication, "is_loopback", lambda address: loopback)
    address, config = control_store(None), RayConfig(require_auth=required)
    authenticate(address, config, may_be_open=True)  # `status` only looks
    if not refused:
        authenticate(address, config)
        return
    with pytest.raises(AuthenticationRefused, match=r"accepts anyone.*ray get-auth-token --generate.*ray.require_auth"):
        authenticate(address, config)


def test_an_address_that_is_not_a_socket_is_left_to_ray(mode):
    authenticate("auto", RayConfig(require_auth=True))
    authenticate("ray://head:10001", RayConfig(require_auth=True))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.3.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("10.0.0.1:1", False),
        ("head:6379", False),
        ("[fe80::1]:1", False),
    ],
)
def test_loopback_is_known_by_its_address(address, loopback):
    assert authentication.is_loopback(address) is loopback


def test_two_clusters_on_one_machine_are_never_guessed_between(monkeypatch):
    class Found(frozenset):
        def __call__(self):
            return self

        def cache_clear(self):
            pass

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_init.services, "find_gcs_addresses", Found({"127.0.0.1:2", "127.0.0.1:1"}))
    with pytest.raises(ConfigError, match=r"2 Ray clusters run on this machine \(127.0.0.1:1, 127.0.0.1:2\): name"):
        ray_init.attach(RayConfig(), local=False)
    monkeypatch.setattr(ray_init.services, "find_gcs_addresses", Found())
    with pytest.raises(ray_init.NoCluster):
        ray_init.attach(RayConfig(), local=False)


def test_a_long_temporary_folder_is_replaced_or_refused(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray_init._short_tmpdir() == {}
    monkeypatch.setenv("TMPDIR", "/tmp/" + "long/" * 12)
    assert ray_init._short_tmpdir() == {"TMPDIR": "/tmp"}
    monkeypatch.setattr(ray_init.os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"TMPDIR = '/tmp/long.*set TMPDIR to a shorter folder"):
        ray_init._short_tmpdir()


def test_labels_are_those_that_ray_accepts():
    for name in ("ray.io/market-type", "couplet/role", "zone", "a.b-c_d"):
        assert not validate_label_key(name)
        RolloutConfig(labels={name: "spot"})
    for name in ("", "-a", "a/b/c", "a b", "x" * 64):
        with pytest.raises(ConfigError):
            RolloutConfig(labels={name: "spot"})
    for value in ("spot", "on-demand", "eu_1.2"):
        assert not validate_label_value(value)
    for value in ("-a", "a b", "!spot", "x" * 64):
        with pytest.raises(ConfigError):
            RolloutConfig(labels={"zone": value})


def test_labels_that_no_node_has_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray_init, "alive_nodes", lambda: [{"Labels": {"zone": "a", "ray.io/market-type": "spot"}}])
    ray_init._require_labels("rollout", {})
    ray_init._require_labels("rollout", {"ray.io/market-type": "spot"})
    with pytest.raises(ConfigError, match=r"learner.labels = zone=b: no node .*`ray start --labels=zone=b`"):
        ray_init._require_labels("learner", {"zone": "b"})


LISTENERS = """
import json, os, psutil, time
from couplet.actors.ray_init import Connection, attach
from couplet.configs.schema import RayConfig
import ray
context = attach(RayConfig(object_store_mb=128, num_cpus=2))
said = {"mode": os.environ["RAY_AUTH_MODE"], "shown": Connection("http://x", True).describe()}
ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
found = {c.laddr.ip for p in ours for c in p.net_connections("tcp") if c.status == "LISTEN"}
said["listening"] = sorted({ip.removeprefix("::ffff:") for ip in found})
print(json.dumps(said), flush=True)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.mark.slow
def test_a_local_ray_listens_on_loopback_alone_and_refuses_a_home_without_its_token(tmp_path):
    """With authentication on, and a temporary folder whose sockets would not fit."""
    long = tmp_path / ("long-" * 10)
    long.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(long)}
    owner = subprocess.Popen(
        [sys.executable, "-c", LISTENERS], cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        said, address = json.loads(owner.stdout.readline()), owner.stdout.readline().strip()
        assert said["mode"] == "token" and "`ray get-auth-token`" in said["shown"]
        assert said["listening"] == ["127.0.0.1"]
        assert address.startswith("127.0.0.1:")
        assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0

        def status(home):
            return subprocess.run(
                [sys.executable, "launch.py", "status", "--address", address],
                cwd=ROOT, env=environment | {"HOME": str(home)}, capture_output=True, text=True, timeout=200,
            )  # fmt: skip

        stranger = tmp_path / "stranger"
        stranger.mkdir()
        refused = status(stranger)
        assert refused.returncode == 2
        assert refused.stderr.splitlines() == [
            f"error: ray.address = '{address}': the cluster asks for a token, and this process has none; "
            "`ray get-auth-token` on the cluster's head prints it; put it into ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or "
            "RAY_AUTH_TOKEN"
        ]
        admitted = status(tmp_path)
        assert admitted.returncode == 2
        assert admitted.stderr.splitlines()[-1] == "error: no running job on this cluster"
    finally:
        owner.communicate("\n", timeout=100)


@pytest.mark.ray
def test_actors_have_names_in_the_namespace_of_their_run(shared_run):
    found = {(a["namespace"], a["name"]) for a in ray.util.list_named_actors(all_namespaces=True)}
    names = {"replay", "learner-0", "rollout-0", "rollout-1", "reward-0", "reward-1"}
    assert {("couplet:shared", name) for name in names} <= found
