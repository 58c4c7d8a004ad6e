"""What is generated from the models is up to date, complete, and accepts what the loader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from couplet.configs import reference
from couplet.configs.generated import BEGIN, END, with_generated
from couplet.configs.load import RECIPES, dump, load, read_recipe
from couplet.configs.mistakes import section_of
from couplet.configs.schema import AdaptConfig, RunConfig

ALL_RECIPES = sorted(RECIPES.rglob("*.yaml"))


def kind_of(recipe):
    return AdaptConfig if "stages" in read_recipe(recipe) else RunConfig


def schema(kind):
    return json.loads(reference.SCHEMAS[kind].read_text(encoding="utf-8"))


def validate(tree, kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    jsonschema.Draft202012Validator(schema(kind)).validate(tree)


@pytest.mark.parametrize("path", reference.documents(), ids=lambda path: path.name)
def test_a_generated_file_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == reference.documents()[path], "run make docs"


def test_every_key_has_a_meaning():
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    names = {row.split("`")[1] for row in rows}
    for kind in (RunConfig, AdaptConfig):
        for name in kind.model_fields:
            section = section_of(kind.model_fields[name])
            prefix = f"{name}.N" if name == "stages" else name
            keys = [f"{prefix}.{inner}" for inner in section.model_fields] if section else [name]
            assert all(key in names or any(other.startswith(f"{key}.") for other in names) for key in keys)


def test_check_writes_nothing(tmp_path, monkeypatch):
    page, old = tmp_path / "configuration.md", reference.PAGE.read_text().replace("learner steps", "learner stops")
    page.write_text(old)
    monkeypatch.setattr(reference, "PAGE", page)
    monkeypatch.setattr(reference, "SCHEMAS", {RunConfig: tmp_path / "schema.json"})
    assert reference.main(["--check"]) == 1 and list(tmp_path.iterdir()) == [page] and page.read_text() == old
    assert reference.main([]) == 0 and reference.main(["--check"]) == 0
    assert len(list(tmp_path.iterdir())) == 2 and "learner steps" in page.read_text()


def test_what_is_written_by_hand_around_a_generated_part_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n\n{END}after\n")
    assert with_generated(page, "new\n") == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    page.write_text(f"before\n{BEGIN}\nold\n")
    assert with_generated(page, "new\n") == f"before\n{BEGIN}\nnew\n"


@pytest.mark.parametrize("recipe", ALL_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_its_schema_and_keeps_to_it(recipe):
    first = recipe.read_text(encoding="utf-8").splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (recipe.parent / named).resolve() == reference.SCHEMAS[kind_of(recipe)].resolve()
    validate(yaml.safe_load(recipe.read_text(encoding="utf-8")), kind_of(recipe))  # as written, with its `base`
    validate(read_recipe(recipe), kind_of(recipe))  # with what the base says
    validate(yaml.safe_load(dump(load(kind_of(recipe), recipe))), kind_of(recipe))  # with every default


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"sampler": {"temprature": 1.0}}, "'temprature' was unexpected"),
        ({"sampler": {"steps": "many"}}, "'many' is not of type 'integer'"),
        ({"sampler": {"top_p": 1.5}}, "1.5 is greater than the maximum of 1"),
        ({"learner": {"zero_stage": 4}}, r"4 is not one of \[0, 1, 2, 3\]"),
        ({"optimizer": {"betas": [0.9]}}, r"\[0.9\] is too short"),
        ({"reward": {"functions": {}}}, "should be non-empty"),
    ],
)
def test_an_editor_marks_what_the_loader_refuses(tree, message):
    with pytest.raises(jsonschema.ValidationError, match=message):
        validate(tree, RunConfig)


def test_the_schemas_are_package_data():
    patterns = (Path(__file__).parents[2] / "pyproject.toml").read_text().split("package-data]")[1].split("\n")[1]
    assert all(f"*{path.suffix}" in patterns for path in reference.SCHEMAS.values())
