"""Couplet: reinforcement learning of masked-diffusion language models that write code, on Ray.

In a checkout the packages are the folders at the top level of the repository; in a wheel they are inside this one.
"""

import os

PACKAGES = (
    "actors",
    "commands",
    "configs",
    "data",
    "evaluation",
    "learner",
    "model",
    "replay",
    "report",
    "reward",
    "rollout",
    "serving",
    "studies",
    "training",
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the checkout, or the folder of installed packages
IS_CHECKOUT = os.path.isfile(os.path.join(ROOT, "launch.py"))
if IS_CHECKOUT:
    __path__.insert(0, ROOT)
