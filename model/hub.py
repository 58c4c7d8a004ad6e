"""Model folders by path, or by a hub name (`owner/name`)."""

from __future__ import annotations

import re
from pathlib import Path

from couplet.configs.schema import ConfigError


def may_be_policy(path: str) -> bool:
    """Whether `path` is a model folder or has the form of a hub name."""
    hub_name = not Path(path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path)
    return (Path(path) / "config.json").is_file() or bool(hub_name)


def find_policy(path: str, where: str) -> str:
    """A model folder, or the local copy of a hub name (`owner/name`), fetched if there is none yet.

    Raises:
        ConfigError: neither; `where` names the setting.
    """
    if (Path(path) / "config.json").is_file():
        return str(Path(path).absolute())
    if (Path(path) / "run.json").is_file():
        raise ConfigError(
            f"{where} = {path!r}: this run has no policy yet; it ends with one, and `export` takes a checkpoint's"
        )
    if not may_be_policy(path):
        raise ConfigError(f"{where} = {path!r}: no such model folder (a folder with config.json is expected)")
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"]))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{where} = {path!r}: neither a local folder nor a model of the hub that can be fetched ({reason}); "
            "give a folder with config.json and safetensors"
        ) from error
