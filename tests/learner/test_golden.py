import json
from pathlib import Path

import pytest

from tests.learner.golden_losses import golden_losses

GOLDEN = Path(__file__).parents[1] / "golden" / "learner_losses.json"


def test_losses_are_those_of_the_golden_file():
    """Regenerate with `make golden`, and say in the commit why the losses changed."""
    expected = json.loads(GOLDEN.read_text())
    found = golden_losses()
    assert found.keys() == expected.keys()
    for name, losses in expected.items():
        assert found[name] == pytest.approx(losses, rel=2e-4, abs=2e-5), name
