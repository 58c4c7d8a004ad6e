"""Tokenizers as they are written: readable by transformers 4, for which Dream's own classes are made, and by our loader."""

from __future__ import annotations

import json
import shutil

import pytest

from couplet.data.tokenizer import MASK, add_diffusion_tokens, load_tokenizer
from tests.data.test_tokenizer import write_qwen2_files

# Class names that transformers 4.46 resolves.
KNOWN = {"PreTrainedTokenizerFast", "Qwen2Tokenizer"}
TEXT = "def f(x):\n    return x<|im_end|><|mask|>"


def settings_of(folder):
    return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))


def as_version_5_writes(folder):
    """The files of `folder` as transformers 5 leaves them by itself."""
    settings = settings_of(folder)
    (folder / "chat_template.jinja").write_text(settings.pop("chat_template"), encoding="utf-8")
    settings |= {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}
    settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def assert_readable(folder):
    settings = settings_of(folder)
    assert settings["tokenizer_class"] in KNOWN
    assert "<|im_start|>" in settings["chat_template"] and settings["mask_token"] == MASK
    assert not isinstance(settings.get("extra_special_tokens"), list)  # transformers 4 asks for names


def assert_same(first, second):
    assert first.chat_prompt("Write f.", "Be brief.") == second.chat_prompt("Write f.", "Be brief.")
    ids = first.encode(TEXT, special=True)
    assert ids == second.encode(TEXT, special=True) and first.decode(ids) == second.decode(ids)
    assert first.special == second.special and len(first) == len(second)
    assert first.backend.all_special_tokens == second.backend.all_special_tokens


def test_an_exported_tokenizer_is_read_by_both_versions(run_folder, tmp_path, command):
    assert command("export", run_folder, tmp_path / "out")[0] == 0
    assert_readable(tmp_path / "out")
    assert_same(load_tokenizer(tmp_path / "out"), load_tokenizer(run_folder / "policy"))


def test_a_folder_written_before_loads_the_same_and_its_export_is_settled(run_folder, tmp_path, command):
    old = tmp_path / "old"
    shutil.copytree(run_folder / "policy", old)
    as_version_5_writes(old)
    assert_same(load_tokenizer(old), load_tokenizer(run_folder / "policy"))
    assert command("export", old, tmp_path / "out")[0] == 0
    assert_readable(tmp_path / "out")
    assert_same(load_tokenizer(tmp_path / "out"), load_tokenizer(old))


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "DreamTokenizer"])
def test_qwen2s_tokenizer_keeps_its_class(kind, tmp_path):
    (tmp_path / "in").mkdir()
    write_qwen2_files(tmp_path / "in", kind)
    tokenizer = load_tokenizer(tmp_path / "in")
    add_diffusion_tokens(tokenizer)
    tokenizer.save(tmp_path / "out")
    assert_readable(tmp_path / "out")
    assert settings_of(tmp_path / "out")["tokenizer_class"] == "Qwen2Tokenizer"
    assert_same(load_tokenizer(tmp_path / "out"), tokenizer)


def test_only_qwen2s_files_point_to_the_original_tokenizer(run_folder, tmp_path, command):
    """Dream's tokenizer class reads vocab.json and merges.txt, and nothing else."""
    assert command("export", run_folder, tmp_path / "plain", "--auto-map", "owner/name")[0] == 0
    assert_readable(tmp_path / "plain")
    assert "auto_map" not in settings_of(tmp_path / "plain")
    source = tmp_path / "policy"
    shutil.copytree(run_folder / "policy", source)
    (source / "vocab.json").write_text("{}")
    (source / "merges.txt").write_text("#version: 0.2\n")
    assert command("export", source, tmp_path / "coded", "--auto-map", "owner/name")[0] == 0
    settings = settings_of(tmp_path / "coded")
    assert settings["auto_map"] == {"AutoTokenizer": ["owner/name--tokenization_dream.DreamTokenizer", None]}
    assert settings["chat_template"]
