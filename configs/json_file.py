"""The one reader of JSON files that hold an object: what cannot be read is a mistake of the user, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError


def read_object(path: Path, remedy: str = "fetch it again", error: type[UserError] = UserError) -> dict[str, Any]:
    """The object in the JSON file `path`.

    Raises:
        UserError: `error`, for a file that cannot be read, is not valid JSON, or does not hold an object; names file
            and remedy.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise error(f"{path}: {failure.strerror}; {remedy}") from failure
    except (ValueError, RecursionError) as failure:  # also text that is not UTF-8
        raise error(f"{path} is not valid JSON ({failure}); {remedy}") from failure
    if not isinstance(tree, dict):
        raise error(f"{path}: expected a JSON object, found {type(tree).__name__}; {remedy}")
    return tree
