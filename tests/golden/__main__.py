"""Regenerate the golden files. A change in them is explained in the commit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.learner.golden_losses import golden_losses
from tests.rollout.golden_tokens import golden_tokens

PRODUCERS = {"learner_losses.json": golden_losses, "sampler_tokens.json": golden_tokens}

argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__).parse_args()
for name, produce in PRODUCERS.items():
    path = Path(__file__).with_name(name)
    path.write_text(json.dumps(produce(), indent=1) + "\n")
    print(f"wrote {path}")
