"""The sampler decodes what it decoded before: a refactoring may not change a token."""

import json
from pathlib import Path

from tests.rollout.golden_tokens import golden_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "sampler_tokens.json"


def test_tokens_and_reveal_steps_are_those_of_the_golden_file() -> None:
    """Regenerate with `make golden`, and say in the commit why they changed."""
    assert golden_tokens() == json.loads(GOLDEN.read_text())
