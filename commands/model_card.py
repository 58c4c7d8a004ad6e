"""The README.md of an exported policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from couplet.configs.schema import SamplerConfig
from couplet.evaluation.suite import metric_name
from couplet.training.policy_settings import generation_fields

TEMPLATES = Path(__file__).with_name("templates")
LAYOUTS = {"Dream": "Dream", "qwen2": "Qwen2", "llama": "Llama", "llada": "LLaDA"}  # family -> name of its layout
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
        facts: `config` and `summary` of the run, as plain trees, either of which may be empty; `license`, None = that of
            the start's card; `code`, the file or the hub repository whose classes load the folder.
        curve: file name of the reward curve beside the card.
    """
    from couplet.report.render import template

    recipe, summary = facts["config"], facts["summary"]
    telling = [
        (section, ", ".join(f"{name} {values[name]}" for name in names if name in values))
        for section, names in TELLING.items()
        if (values := recipe.get(section))
    ]
    return template("model_card.jinja", TEMPLATES).render(
        name=name,
        config=config,
        token_ids=token_ids,
        recipe=recipe,
        summary=summary,
        curve=curve,
        layout=LAYOUTS.get(config.family, config.family),
        code=facts["code"],
        canvas=sampler.completion_length,
        steps=sampler.steps,
        data=_training_data(recipe),
        front_matter=_front_matter(recipe, facts["license"]),
        before_after=_before_after(summary, recipe),
        decoding=[(f"`{key}`", str(value)) for key, value in generation_fields(sampler).items() if value is not None],
        telling=telling,
        settings=_settings(recipe),
    )


def _front_matter(recipe: Mapping[str, Any], license_id: str | None) -> str:
    start = (recipe.get("model") or {}).get("path") or recipe.get("start")
    fields: dict[str, Any] = {
        "license": license_id or license_of(start) or "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["masked-diffusion", "text-diffusion", "code", "couplet"],
    }
    if start and re.fullmatch(r"[\w.-]+/[\w.-]+", str(start)):
        fields["base_model"] = start
    return str(yaml.safe_dump(fields, sort_keys=False))


def license_of(folder: str | None) -> str | None:
    """The licence that the card of a model folder names; None without a folder, a card or a licence in it."""
    path = Path(folder or "") / "README.md"
    if folder is None or not path.is_file():
        return None
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        fields = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        return None
    found = fields.get("license") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def _training_data(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(how it was used, its name in the recipe without folders) of every corpus and problem set."""
    model = recipe.get("model") or {}
    used = [(f"stage {stage.get('name')}", stage.get("corpus")) for stage in recipe.get("stages") or ()]
    used.append(("problems with tests", (recipe.get("problems") or {}).get("train")))
    before = model.get("recipe") or model.get("path") or recipe.get("start")
    used.append(("what the start was trained on", before))
    return [(how, _short(str(source))) for how, source in used if source]


def _before_after(summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of what was measured before and after training."""
    rows = []
    for key in [key.removesuffix("_before") for key in summary if key.endswith("_before")]:
        before, after = summary[f"{key}_before"], summary.get(f"{key}_after")
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            name = metric_name(key, recipe.get("evaluation") or {})
            rows.append((name, f"{100 * before:.1f}%", f"{100 * after:.1f}%"))
    ar_ness = summary.get("ar_ness") or {}
    for temperature, before in (ar_ness.get("before") or {}).items():
        after = (ar_ness.get("after") or {}).get(temperature) or {}
        for kind in ("local", "global"):
            if kind in before and kind in after:
                rows.append((f"{kind} AR-ness, T = {temperature}", f"{before[kind]:.2f}", f"{after[kind]:.2f}"))
    return rows


def _settings(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML; of a local folder only the last two parts are shown."""
    shown = {name: value for name, value in recipe.items() if name != "runs_dir"}
    if path := (shown.get("model") or {}).get("path"):
        shown["model"] = shown["model"] | {"path": _short(path)}
    return str(yaml.safe_dump(shown, sort_keys=False))


def _short(path: str) -> str:
    """The last two parts of an absolute path; any other is unchanged."""
    return "/".join(PurePath(path).parts[-2:]) if PurePath(path).is_absolute() else path
