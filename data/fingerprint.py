"""The fingerprint of weights, problems, settings and code: equal content, equal text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def fingerprint(parts: Iterable[str | bytes], size: int = 16) -> str:
    """BLAKE2b of the concatenated parts, as hexadecimal text of 2·size characters.

    Args:
        parts: read one after the other, so a large input never has to be in memory at once. Where the border between
            two parts matters, the caller writes it (a length, a separator). Text counts as UTF-8; lone surrogates are
            allowed.
        size: bytes of the digest, 1 to 64.
    """
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return digest.hexdigest()
