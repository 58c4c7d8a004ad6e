"""The study of the whole path with fake processes and measures: order, resumption, and claims judged by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from couplet.configs.schema import ConfigError
from couplet.studies.path import RL, Plan, main, run_path
from couplet.studies.path_claims import claims, value
from couplet.studies.path_measure import Form

STAGES = ["autoregressive", "adapt", "mid", "instruct", "messy"]


class FakeLaunch:
    """Leaves behind what `launch.py adapt` and `launch.py train` do."""

    def __init__(self, breaks_at: str | None = None) -> None:
        self.breaks_at = breaks_at
        self.commands: list[list[str]] = []

    def __call__(self, arguments, log: Path) -> None:
        settings = dict(word.split("=", 1) for word in arguments if "=" in word)
        folder = Path(settings["runs_dir"]) / settings["name"]
        self.commands.append(list(arguments))
        if arguments[0] == self.breaks_at:
            (folder / "checkpoints" / "step-000010").mkdir(parents=True)
            raise RuntimeError("killed")
        policies = [f"stages/{i}-{name}" for i, name in enumerate(STAGES)] if arguments[0] == "adapt" else []
        for policy in [*policies, "policy"]:
            (folder / policy).mkdir(parents=True, exist_ok=True)
            (folder / policy / "config.json").write_text("{}")
        if arguments[0] == "train":
            assert Path(settings["model.path"], "config.json").is_file()
            (folder / "summary.json").write_text("{}")


class FakeMeasure:
    """pass@1 0.1 after every stage, 0.5 after RL; AR-ness falls with temperature; half the steps cost 0.05."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.forms: dict[str, Form] = {}

    def __call__(self, folder, config, decodings, form):
        assert (folder / "config.json").is_file() and config.evaluation.limit == 40
        self.folders.append(folder.name)
        self.forms[folder.name] = form
        rl = folder.parent.name == RL
        return [
            {
                "form": form.value,
                "temperature": d.temperature,
                "pace": d.pace,
                "steps": None if form is Form.LEFT_TO_RIGHT else round(16 * d.pace),
                "samples": d.samples,
                "pass@1": (0.5 if rl else 0.1) - (0.05 if d.pace < 1 else 0.0),
                f"pass@{d.samples}": 0.6 + 0.1 * d.temperature,
                "format": 1.0,
                "local": 0.9 - 0.1 * d.temperature,
                "global": 0.9 - 0.1 * d.temperature,
            }
            for d in decodings
        ]


def study(tmp_path, launch, measure, **options):
    return run_path(tmp_path / "docs", tmp_path / "runs", Plan(), launch=launch, measure=measure, **options)


def test_every_seed_runs_its_stages_then_reinforcement_from_the_last_one_and_all_are_measured(tmp_path) -> None:
    launch, measure = FakeLaunch(), FakeMeasure()
    result = study(tmp_path, launch, measure, seeds=(0, 3))
    assert [command[0] for command in launch.commands] == ["adapt", "train"] * 2
    assert measure.folders == [*(f"{i}-{name}" for i, name in enumerate(STAGES)), "policy"] * 2
    assert "seed=3" in launch.commands[3] and "--local" in launch.commands[3]
    assert f"model.path={tmp_path}/runs/seed3/stages/stages/4-messy" in launch.commands[3]
    assert {row["stage"] for row in result["rows"]} == {*STAGES, RL}
    page = (tmp_path / "docs" / "path.md").read_text()
    assert "| autoregressive | plain text, left to right | 10.0 ± 0.0 |" in page
    forms = [Form.LEFT_TO_RIGHT, Form.TEXT, Form.TEXT, Form.CHAT, Form.CHAT, Form.CHAT]
    assert list(measure.forms.values()) == forms
    assert "| rl | chat prompt, diffusion | 50.0 ± 0.0 | 50.0 ± 0.0 | 70.0 ± 0.0 | 100.0 ± 0.0 | 0.88 ± 0.00 |" in page
    for suffix in ("json", "png", "svg"):
        assert (tmp_path / "docs" / f"path.{suffix}").is_file()


def test_the_page_names_the_command_that_makes_it(tmp_path) -> None:
    usual = study(tmp_path, FakeLaunch(), FakeMeasure(), seeds=(0, 3))
    assert usual["command"] == "python -m couplet.studies.path --seeds 0,3 --problems 40"
    other = Plan(train_recipe=Path("configs/tiny.yaml"), train_overrides=("steps=7",))
    page = run_path(
        tmp_path / "more", tmp_path / "others", other, seeds=(0,), launch=FakeLaunch(), measure=FakeMeasure()
    )
    assert page["command"] == "python -m couplet.studies.path --seeds 0 --problems 40 --train configs/tiny.yaml steps=7"


def test_a_killed_study_resumes_its_run_and_repeats_nothing_that_is_finished(tmp_path) -> None:
    first, measure = FakeLaunch(breaks_at="train"), FakeMeasure()
    with pytest.raises(RuntimeError, match="killed"):
        study(tmp_path, first, measure, seeds=(0,))
    again = FakeLaunch()
    study(tmp_path, again, measure, seeds=(0,))
    assert [command[0] for command in again.commands] == ["train"] and "--resume" in again.commands[0]
    third = FakeLaunch()
    study(tmp_path, third, measure, seeds=(0,))
    assert third.commands == [] and len(measure.folders) == 6


def test_runs_of_another_plan_are_refused(tmp_path) -> None:
    study(tmp_path, FakeLaunch(), FakeMeasure(), seeds=(0,))
    with pytest.raises(ConfigError, match="train"):
        other = Plan(train_overrides=("steps=7",))
        run_path(tmp_path / "docs", tmp_path / "runs", other, seeds=(0,), launch=FakeLaunch(), measure=FakeMeasure())


def test_claims_are_paired_differences_that_are_positive_where_the_claim_holds(tmp_path) -> None:
    rows = study(tmp_path, FakeLaunch(), FakeMeasure(), seeds=(0, 1))["rows"]
    found = {claim["measured"]: claim for claim in claims(rows, 16)}
    assert found["pass@1 at T = 0.2, rl minus messy"]["gaps"] == pytest.approx([0.4, 0.4])
    assert found["local AR-ness@1 of rl in 16 steps, T = 0.2 minus T = 1.2"]["mean"] == pytest.approx(0.1)
    assert found["pass@8 of rl, T = 1 minus T = 0.2"]["mean"] == pytest.approx(0.08)
    assert found["fall of pass@1 from 16 to 8 steps at T = 0.2, messy minus rl"]["mean"] == pytest.approx(0.0)
    assert found["share of pass@1 kept from 16 to 8 steps at T = 0.2, rl minus messy"]["mean"] == pytest.approx(0.4)
    assert value(rows, 0, RL, 0.2, 8, "pass@1") == pytest.approx(0.45)


def test_the_claim_about_masks_comes_from_the_ablation_study(tmp_path) -> None:
    runs = [
        {"recipe": recipe, "seed": seed, "pass_at_1_after": after + 0.01 * seed}
        for recipe, after in (("coupled", 0.5), ("full_mask", 0.3))
        for seed in (0, 1)
    ]
    (tmp_path / "ablations.json").write_text(json.dumps({"runs": runs}))
    result = study(tmp_path, FakeLaunch(), FakeMeasure(), seeds=(0,), ablations=tmp_path / "ablations.json")
    claim = next(claim for claim in result["claims"] if claim["claim"] == "coupled beats full mask")
    assert claim["gaps"] == pytest.approx([0.2, 0.2]) and claim["verdict"] == "reproduced"


def test_a_missing_recipe_is_one_clear_error(tmp_path, capsys) -> None:
    assert main(["--adapt", "nowhere.yaml", "--runs", str(tmp_path / "r"), "--out", str(tmp_path)]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
