"""An exported folder in a process that has transformers but not this project, and no network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest
import torch
import yaml

from couplet.commands.export import export_policy
from couplet.commands.model_card import _training_data, license_of
from couplet.configs.schema import ShapeConfig
from couplet.model.policy import DiffusionPolicy
from tests.learner.toys import TOKENS, VOCABULARY
from tests.model.originals import write_original
from tests.model.test_families import transformers_folder

TOKENS_BL = torch.tensor([[9, 8, 7, 4, 4, 12, 13, 4], [5, 5, 5, 6, 4, 11, 4, 3]])
ATTENTION_BL = torch.tensor([[1] * 8, [0, 0, 1, 1, 1, 1, 1, 1]])
ELSEWHERE = """
import sys
sys.path.append(sys.argv[3])  # the installed packages, without the links to a project's folder that are beside them
import torch
from transformers import AutoModel, AutoModelForMaskedLM
folder, tokens, attention, plain, padded, atol = sys.argv[1], *torch.load(sys.argv[2])
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    torch.testing.assert_close(model(tokens).logits, plain, atol=atol, rtol=0)
    found = model(tokens, attention).logits
real = attention.bool()
torch.testing.assert_close(found[real], padded[real], atol=atol, rtol=0)
mask = model.config.mask_token_id
made = model.diffusion_generate(tokens[:, :3], max_new_tokens=6, steps=4)
assert made.shape == (2, 9) and bool((made[:, :3] == tokens[:, :3]).all()) and not bool((made[:, 3:] == mask).any())
assert type(AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)) is type(model)
try:
    import couplet
except ImportError:
    print("loaded without couplet")
"""


def folder_of(family, tmp_path):
    """A policy folder of each family, with and without tied embeddings and grouped keys."""
    if family in ("llada", "Dream"):
        write_original(tmp_path / "policy", family)
    elif family == "tied":
        shape = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, embedding_std=0.5)
        DiffusionPolicy.from_shape(shape, VOCABULARY, TOKENS, seed=0).save_pretrained(tmp_path / "policy")
    else:
        transformers_folder(tmp_path / "policy", family, tied=False, mask_token_id=4)
    return tmp_path / "policy"


@pytest.mark.parametrize(
    "family", ["tied", *(pytest.param(f, marks=pytest.mark.slow) for f in ("Dream", "llada", "llama"))]
)
def test_logits_are_equal_where_this_project_cannot_be_imported(family, tmp_path):
    folder = export_policy(folder_of(family, tmp_path), tmp_path / "out")
    policy = DiffusionPolicy.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = policy.logits(TOKENS_BL), policy.logits(TOKENS_BL, ATTENTION_BL)
    torch.save((TOKENS_BL, ATTENTION_BL, *expected, 0.0 if family == "tied" else 1e-5), tmp_path / "expected.pt")
    away = {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    packages = sysconfig.get_path("purelib")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, str(folder), str(tmp_path / "expected.pt"), packages],
        cwd=tmp_path, env={**away, "PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "loaded without couplet" in done.stdout, done.stderr[-3000:]


def test_the_licence_is_that_of_the_start_s_own_card(tmp_path):
    assert license_of(None) is None and license_of(str(tmp_path)) is None
    for text, expected in (
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("# no front matter", None),
        ("---\n[: \n---\n", None),
    ):
        (tmp_path / "README.md").write_text(text)
        assert license_of(str(tmp_path)) == expected


def test_the_training_data_are_named_without_folders():
    stages = [{"name": "mid", "corpus": "/data/code/python.jsonl"}, {"name": "tune", "corpus": "katas:tune"}]
    assert _training_data({"stages": stages, "start": "Qwen/Qwen2.5-Coder-7B"}) == [
        ("stage mid", "code/python.jsonl"),
        ("stage tune", "katas:tune"),
        ("what the start was trained on", "Qwen/Qwen2.5-Coder-7B"),
    ]
    assert _training_data({"problems": {"train": "katas:rl"}}) == [("problems with tests", "katas:rl")]
    assert _training_data({}) == []


def test_a_licence_may_be_named(tmp_path):
    folder = export_policy(folder_of("tied", tmp_path), tmp_path / "out", license_id="apache-2.0")
    assert yaml.safe_load((folder / "README.md").read_text().split("---")[1])["license"] == "apache-2.0"
