"""`export`: a run's policy as a Hugging Face folder with decoding defaults and a model card."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from couplet.commands.model_card import model_card
from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.load import read_recipe
from couplet.configs.schema import ConfigError, require
from couplet.data.files import writing
from couplet.learner.checkpoint import latest_checkpoint
from couplet.training.policy_settings import config_for, write_decoding

CURVE = "reward.png"
CODE = "modeling_couplet.py"


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `export`."""
    parser.add_argument("run", help="run folder, e.g. runs/latest, or a policy folder")
    parser.add_argument("out", help="new folder")
    text = "type of the weights (default: auto, as they are stored)"
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help=text)
    parser.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help="largest weight file (default: 5)")
    text = "hub repository with the family's code, which transformers then uses instead of the file in the folder"
    parser.add_argument("--auto-map", metavar="REPO", help=text)
    text = "licence in the card, e.g. apache-2.0 (default: that of the start's own card, else unknown)"
    parser.add_argument("--license", metavar="ID", help=text)
    text = "write the LoRA adapter of the newest checkpoint as a PEFT folder instead of the merged policy"
    parser.add_argument("--adapter", action="store_true", help=text)


def run(args: argparse.Namespace) -> None:
    """Write the folder and print its path."""
    if args.adapter:
        print(f"{export_adapter(args.run, args.out)}: written")
        return
    options = {"max_shard_gb": args.shard_gb, "auto_map": args.auto_map, "license_id": args.license}
    out = export_policy(args.run, args.out, dtype=args.dtype, **options)
    print(f"{out}: written and read back without a difference")


def export_adapter(run: str | Path, out: str | Path) -> Path:
    """Copy the adapter of the newest checkpoint of `run` to the new folder `out`; returns `out`.

    Raises:
        ConfigError: no checkpoint with an adapter, or `out` exists or cannot be written.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise ConfigError(f"{out} exists: name a new folder, or delete it")
    found = latest_checkpoint(run / "checkpoints")
    if found is None or not (found[0] / "adapter").is_dir():
        raise ConfigError(
            f"{run} has no checkpoint with an adapter: it was not trained with learner.adapter.rank above 0"
        )
    part = out.with_name(f".{out.name}.part")
    with writing(out, remedy="name another folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(found[0] / "adapter", part)
        part.rename(out)
    return out


def export_policy(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str = "auto",
    max_shard_gb: float = 5.0,
    auto_map: str | None = None,
    license_id: str | None = None,
) -> Path:
    """Write the policy of `run` to the new folder `out` and read it back; returns `out`.

    The folder has its family's layout: safetensors (in shards), config.json with the fields that its own class reads,
    tokenizer, generation_config.json with the run's decoding, README.md, and the file with which plain transformers loads
    it if remote code is trusted.

    Args:
        run: a run folder (its kept policy, else that of its newest checkpoint), or a policy folder.
        out: must not exist.
        dtype: "auto" keeps the stored type; "float32", "bfloat16" or "float16".
        max_shard_gb: larger models are written in several files.
        auto_map: hub name of a repository with the family's code; transformers then loads the folder through that code,
            and no file with code is written.
        license_id: licence in the card; None = that of the start's own card, else unknown.

    Raises:
        ConfigError: no policy, or `out` exists or cannot be written.
        ValueError: the folder is not a diffusion policy, or the copy differs from the original.
    """
    from couplet.model.families import MODEL_FAMILIES
    from couplet.model.policy import DiffusionPolicy

    run, out = Path(run), Path(out)
    require(max_shard_gb > 0, "--shard-gb", max_shard_gb, "must be greater than 0")
    if out.exists():
        raise ConfigError(f"{out} exists: name a new folder, or delete it")
    source = find_policy_of(run)
    policy = DiffusionPolicy.from_pretrained(source, dtype=dtype)
    sampler = config_for(source, None).sampler
    part = out.with_name(f".{out.name}.part")
    with writing(out, remedy="name another folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            policy.save_pretrained(part, max_shard_bytes=int(max_shard_gb * 1e9))
            check_copy(policy, part)
            _write_tokenizer(source, part, auto_map)
            if auto_map is None:
                remote = write_code(part, policy.config.family)
            else:
                classes = MODEL_FAMILIES[policy.config.family].remote_classes.items()
                remote = {name: f"{auto_map}--{code}" for name, code in classes if name != "AutoTokenizer"}
            _write_json(part / "config.json", read_object(part / "config.json") | {"auto_map": remote})
            write_decoding(part, sampler)
            has_curve = (run / CURVE).is_file()
            if has_curve:
                shutil.copyfile(run / CURVE, part / CURVE)
            facts = run_facts(run, source) | {"license": license_id, "code": auto_map or CODE}
            card = model_card(out.name, policy.config, policy.token_ids, sampler, facts, CURVE if has_curve else None)
            (part / "README.md").write_text(card, encoding="utf-8")
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return out


def write_code(folder: Path, family: str) -> dict[str, str]:
    """Copy the file that plain transformers loads the folder with; returns the `auto_map` that names its classes."""
    from couplet.model import families

    text = (
        Path(families.__file__)
        .with_name(CODE)
        .read_text(encoding="utf-8")
        .replace('model_type = "couplet"', f'model_type = "{family}"')
    )
    (folder / CODE).write_text(text, encoding="utf-8")
    module = CODE.removesuffix(".py")
    classes = {"AutoConfig": "CoupletConfig", "AutoModel": "CoupletModel", "AutoModelForMaskedLM": "CoupletModel"}
    return {auto: f"{module}.{name}" for auto, name in classes.items()}


def find_policy_of(run: Path) -> Path:
    """The policy folder of a run, or `run` itself if it is one. `ConfigError` if there is none."""
    if not run.is_dir():
        raise ConfigError(f"{run} does not exist; name a run folder, e.g. runs/latest, or a policy folder")
    for folder in (run / "policy", run):
        if (folder / "config.json").is_file():
            return folder
    found = latest_checkpoint(run / "checkpoints")
    if found is None or not (found[0] / "policy" / "config.json").is_file():
        raise ConfigError(f"{run} holds no policy: neither policy/, nor a complete checkpoint, nor config.json")
    return found[0] / "policy"


def run_facts(run: Path, source: Path) -> dict[str, Any]:
    """What is known of the run: `config` (its recipe) and `summary`, each empty if missing."""
    root = run if source != run else run.parent
    config, summary = root / "config.yaml", root / "summary.json"
    return {
        "config": read_recipe(config) if config.is_file() else {},
        "summary": read_object(summary, "delete it to export without it") if summary.exists() else {},
    }


def check_copy(policy: Any, folder: Path) -> None:
    """Read the written tensors back, one at a time. `ValueError` if one differs by a single bit."""
    import torch

    from couplet.model.folder import read_weights

    mine = dict(policy.named_parameters())
    shapes = {name: parameter.shape for name, parameter in mine.items()}
    for name, tensor in read_weights(folder, shapes, "cpu", policy.config.tie_word_embeddings, policy.config.family):
        if not torch.equal(tensor.view(torch.uint8), mine[name].detach().cpu().contiguous().view(torch.uint8)):
            raise UserError(f"{folder}: {name} reads back differently from what was written; check the disk")


def _write_tokenizer(source: Path, folder: Path, auto_map: str | None) -> None:
    """A tokenizer whose class is not in the folder is written as plain files, or refers to the class's repository.

    Only the files of Qwen2's tokenizer, `vocab.json` and `merges.txt`, can be read by that code.
    """
    from couplet.data.tokenizer import load_tokenizer, settle_settings
    from couplet.model.families import MODEL_FAMILIES

    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = read_object(path)
    if auto_map is not None and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        classes = [f"{auto_map}--{MODEL_FAMILIES['Dream'].remote_classes['AutoTokenizer']}", None]
        _write_json(path, settings | {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": classes}})
    elif "auto_map" in settings:
        load_tokenizer(source).save(folder)
        _write_json(path, {name: value for name, value in read_object(path).items() if name != "auto_map"})
    settle_settings(folder)


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
