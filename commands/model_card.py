"""The README.md of an exported policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from couplet.configs.schema import SamplerConfig
from couplet.evaluation.policy_settings import generation_fields
from couplet.evaluation.suite import metric_name

# The most informative settings of a run, by section.
TELLING = {
    "estimator": ("name", "pairs", "t_min", "t_max", "weighting"),
    "objective": ("inner_updates", "clip_low", "clip_high", "kl_weight", "advantage", "ratio"),
    "optimizer": ("lr", "weight_decay", "grad_norm", "schedule"),
    "replay": ("groups_per_step", "completions", "max_staleness"),
    "problems": ("train", "evaluate"),
}


def model_card(
    name: str, config: Any, token_ids: Any, sampler: SamplerConfig, facts: Mapping[str, Any], curve: str | None
) -> str:
    """Markdown with the hub's front matter.

    Args:
        name: of the folder.
        config, token_ids: the policy's.
        sampler: its decoding defaults.
        facts: `config` and `summary` of the run, as plain trees; either may be empty.
        curve: file name of the reward curve beside the card.
    """
    recipe, summary = facts["config"], facts["summary"]
    sections = [
        _front_matter(recipe),
        f"# {name}",
        _introduction(config, recipe),
        _figures(summary, recipe, curve),
        _decoding(sampler),
        _loading(token_ids),
        _recipe(recipe),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(recipe: Mapping[str, Any]) -> str:
    fields: dict[str, Any] = {"tags": ["masked-diffusion", "text-diffusion", "code", "couplet"]}
    start = (recipe.get("model") or {}).get("path") or recipe.get("start")
    if start and re.fullmatch(r"[\w.-]+/[\w.-]+", str(start)):
        fields["base_model"] = start
    return "---\n" + yaml.safe_dump(fields, sort_keys=False) + "---"


def _introduction(config: Any, recipe: Mapping[str, Any]) -> str:
    size = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, vocabulary {config.vocab_size}"
    text = (
        f"A masked-diffusion language model for code ({size}) in Dream's layout: it denoises a canvas of mask tokens."
    )
    if "stages" in recipe:
        stages = ", ".join(f"{stage['name']} ({stage['objective']})" for stage in recipe["stages"])
        return f"{text} Adapted by supervised stages of Couplet: {stages}."
    if recipe:
        return f"{text} Post-trained with coupled-GRPO ([DiffuCoder](https://arxiv.org/abs/2506.20639)) by Couplet."
    return text


def _figures(summary: Mapping[str, Any], recipe: Mapping[str, Any], curve: str | None) -> str:
    """Before and after training."""
    lines = []
    evaluation, problems = recipe.get("evaluation") or {}, recipe.get("problems") or {}
    for key in [key.removesuffix("_before") for key in summary if key.endswith("_before")]:
        before, after = summary[f"{key}_before"], summary.get(f"{key}_after")
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            lines.append(f"| {metric_name(key, evaluation)} | {100 * before:.1f}% | {100 * after:.1f}% |")
    ar_ness = summary.get("ar_ness") or {}
    for temperature, before in (ar_ness.get("before") or {}).items():
        after = (ar_ness.get("after") or {}).get(temperature) or {}
        for kind in ("local", "global"):
            if kind in before and kind in after:
                lines.append(f"| {kind} AR-ness, T = {temperature} | {before[kind]:.2f} | {after[kind]:.2f} |")
    if not lines:
        return ""
    steps, seed = summary.get("steps", "?"), summary.get("seed", "?")
    head = f"Held-out problems `{problems.get('evaluate', '?')}`, {steps} learner steps, one seed ({seed}):"
    table = ["| | before | after |", "| --- | ---: | ---: |", *lines]
    image = [f"![Mean reward per learner step]({curve})"] if curve else []
    return "\n\n".join(["## Before and after", head, "\n".join(table), *image])


def _decoding(sampler: SamplerConfig) -> str:
    rows = [f"| `{name}` | {value} |" for name, value in generation_fields(sampler).items() if value is not None]
    return "\n".join(
        ["## Decoding", "", "Defaults, also in `generation_config.json`:", "", "| | |", "| --- | --- |", *rows]
    )


def _loading(token_ids: Any) -> str:
    return "\n".join(
        [
            "## Use",
            "",
            "```sh",
            "python launch.py sample FOLDER            # Couplet",
            "python launch.py evaluate FOLDER PROBLEMS",
            "```",
            "",
            "Dream's own `DreamModel.from_pretrained(FOLDER)` reads it too (`diffusion_generate`). The folder holds no code. "
            f"Token ids: mask {token_ids.mask}, filler {token_ids.filler}, end {', '.join(map(str, token_ids.end))}.",
        ]
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return ""
    rows = [
        f"| {section} | {', '.join(f'{name} {values[name]}' for name in names if name in values)} |"
        for section, names in TELLING.items()
        if (values := recipe.get(section))
    ]
    table = ["| | |", "| --- | --- |", *rows, ""] if rows else []
    shown = {name: value for name, value in recipe.items() if name != "runs_dir"}
    if (shown.get("model") or {}).get("path"):
        shown["model"] = shown["model"] | {"path": _name_of(shown["model"]["path"])}
    full = yaml.safe_dump(shown, sort_keys=False).rstrip()
    return "\n".join(
        [
            "## Recipe",
            "",
            *table,
            "<details><summary>Every setting</summary>",
            "",
            "```yaml",
            full,
            "```",
            "",
            "</details>",
        ]
    )


def _name_of(path: str) -> str:
    """A hub name unchanged; only the last two parts of a local folder."""
    return "/".join(PurePath(path).parts[-2:]) if PurePath(path).is_absolute() else path
