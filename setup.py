"""Maps the folders of the checkout to the packages of the namespace; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))
from couplet import PACKAGES

folders = [folder for top in PACKAGES for folder in (top, *(f"{top}.{inner}" for inner in find_packages(top)))]
setup(
    packages=["couplet", *(f"couplet.{folder}" for folder in folders)],
    package_dir={"couplet": "couplet"} | {f"couplet.{top}": top for top in PACKAGES},
)
