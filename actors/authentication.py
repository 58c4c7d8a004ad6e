"""Ray's token authentication: whether a cluster asks for a token, and whether this process has the right one.

The question is one gRPC call before Ray's own client is started: that client fails late, with many native warnings.
"""

from __future__ import annotations

import ipaddress
import os
from enum import Enum

import grpc
from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR as MODE
from ray._private.authentication.authentication_token_setup import _enable_token_auth as enable_token_mode
from ray._private.authentication.authentication_token_setup import generate_and_save_token
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from couplet.configs.schema import ConfigError, RayConfig

ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
PROBE_SECONDS = 5.0
DISTRIBUTE = "`ray get-auth-token --generate` makes a token in ~/.ray/auth_token"
PLACES = "~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"


class Answer(Enum):
    """What a cluster answers to a call."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # it asks for another token, or for one at all
    NONE = "none"  # nothing there speaks Ray's protocol, or not in time


class AuthenticationRefused(ConfigError):
    """A cluster is there, but it refuses the token of this process or accepts anyone."""


def authenticate(address: str, config: RayConfig, *, may_be_open: bool = False) -> None:
    """Turn on token mode for this process and its children if the cluster at HOST:PORT asks for a token.

    Args:
        address: of the cluster; other forms than HOST:PORT are left to Ray.
        config: `connect_timeout`, `require_auth`.
        may_be_open: accept a cluster without authentication, whatever `require_auth` says.

    Raises:
        AuthenticationRefused: the token is missing or wrong, or the cluster has no authentication and must have.
    """
    if not is_socket(address):
        return
    seconds = min(PROBE_SECONDS, config.connect_timeout)
    answer = probe(address, None, seconds)
    if answer is Answer.ACCEPTED and not may_be_open and _must_authenticate(address, config):
        raise AuthenticationRefused(
            f"ray.address = {address!r}: the cluster accepts anyone who reaches its ports. {DISTRIBUTE}: copy it to every "
            "node (mode 0600), then start Ray again with RAY_AUTH_MODE=token on each; or set ray.require_auth=false if "
            "the network is closed"
        )
    if answer is Answer.REFUSED:
        _require_accepted(address, seconds)
        enable_token_mode()


def make_token() -> None:
    """Make a token for a local Ray if this process finds none, as `ray.init` would, but readable by its owner alone."""
    if os.environ.get(MODE, "token").lower() != "token" or token() is not None:
        return
    before = os.umask(0o077)
    try:
        generate_and_save_token()
    finally:
        os.umask(before)
    AuthenticationTokenLoader.instance().reset_cache()


def token() -> str | None:
    """The token that this process finds in its environment or its home folder."""
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    found: str | None = loader.get_raw_token(ignore_auth_mode=True) if loader.has_token(ignore_auth_mode=True) else None
    return found


def probe(address: str, secret: str | None, seconds: float) -> Answer:
    """Call the cluster at HOST:PORT with a token, or without one."""
    metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            return Answer.REFUSED if code is grpc.StatusCode.UNAUTHENTICATED else Answer.NONE
    return Answer.ACCEPTED


def is_socket(address: str) -> bool:
    """True for HOST:PORT; False for `auto` and addresses with a protocol."""
    host, _, port = address.rpartition(":")
    return bool(host) and "/" not in host and port.isdigit()


def is_loopback(address: str) -> bool:
    """Whether the host of HOST:PORT is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _must_authenticate(address: str, config: RayConfig) -> bool:
    return not is_loopback(address) if config.require_auth is None else config.require_auth


def _require_accepted(address: str, seconds: float) -> None:
    """`AuthenticationRefused` unless the token of this process is that of the cluster."""
    remedy = f"`ray get-auth-token` on the cluster's head prints it; put it into {PLACES}"
    if os.environ.get(MODE, "token").lower() == "disabled":
        reason, remedy = f"but {MODE}=disabled", f"unset {MODE}, or set it to token"
    elif (secret := token()) is None:
        reason = "and this process has none"
    elif probe(address, secret, seconds) is Answer.REFUSED:
        reason = "and that of this process is another one"
    else:
        return
    raise AuthenticationRefused(f"ray.address = {address!r}: the cluster asks for a token, {reason}; {remedy}")
