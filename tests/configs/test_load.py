"""Recipes, overrides and the errors a user meets."""

import pytest

from couplet.configs.load import dump, from_dict, load, read_recipe, to_dict
from couplet.configs.schema import AdaptConfig, ConfigError, RunConfig, SamplerConfig


def write(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_resolved_config_reads_back_as_itself(tmp_path):
    config = load(RunConfig, "tiny.yaml", ["seed=3", "sampler.top_k=50"])
    assert load(RunConfig, write(tmp_path, dump(config))) == config
    assert (config.seed, config.sampler.top_k) == (3, 50)


def test_every_shipped_recipe_is_valid():
    from couplet.configs.load import RECIPES

    for path in sorted(RECIPES.rglob("*.yaml")):
        kind = AdaptConfig if "stages" in read_recipe(path) else RunConfig
        assert from_dict(kind, to_dict(load(kind, path))) == load(kind, path)


def test_a_recipe_starts_from_its_base(tmp_path):
    write(tmp_path, "name: parent\nsampler: {steps: 4, temperature: 0.5}\n", "base.yaml")
    config = load(RunConfig, write(tmp_path, "base: base.yaml\nsampler: {steps: 8}\n"))
    assert (config.name, config.sampler.steps, config.sampler.temperature) == ("parent", 8, 0.5)


@pytest.mark.parametrize(
    "text, message",
    [
        ("sampler: {temprature: 1}", "unknown key 'sampler.temprature': did you mean 'sampler.temperature'?"),
        ("sampler: {steps: many}", "sampler.steps = 'many': expected a whole number"),
        ("sampler: {order: random}", "sampler.order = 'random': choose one of origin, maskgit_plus"),
        ("sampler: {top_p: 1.5}", r"sampler.top_p = 1.5: must lie in \(0, 1\]"),
        ("sampler: 3", "sampler = 3: expected a section"),
        ("steps: 0", "^steps = 0: must be greater than 0"),
        ("learner: {ranks: 3}", "replay.groups_per_step = 8: must be divisible by learner.ranks = 3"),
        ("weights: {broadcast_every: 4}", "replay.max_staleness = 1: must be at least weights.broadcast_every - 1 = 3"),
        ("sandbox: {tier: rlimits}", "sandbox.allow_unsafe: true"),
        ("optimizer: {betas: [0.9]}", "optimizer.betas = .*expected 2 values"),
        ("learner: {engine: torch, zero_stage: 2}", "learner.zero_stage = 2: needs engine: deepspeed"),
        ("{objective: {zero_signal: keep}, replay: {refill: true}}", "replay.refill = True: gives the place"),
        ("{sampler: {temperature: 0}, estimator: {match_temperature: true}}", "estimator.match_temperature = True"),
        ("steps: [1", "broken YAML"),
        ("- 1", "expected sections"),
    ],
)
def test_a_mistake_is_named_with_its_mend(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(RunConfig, write(tmp_path, text))


@pytest.mark.parametrize(
    "stage, message",
    [
        ("{canvas: 64, length: 64}", r"canvas = 64: must lie in 1..length - 1 = 63, to leave room for a prompt"),
        ("{patience: 3}", "patience = 3: counts validations: set validate_every as well"),
    ],
)
def test_a_mistake_in_a_stage_is_named(tmp_path, stage, message):
    with pytest.raises(ConfigError, match=message):
        load(AdaptConfig, write(tmp_path, f"stages: [{stage}]"))


def test_a_missing_recipe_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"'absent.yaml' does not exist; shipped recipes: .*tiny.yaml"):
        load(RunConfig, "absent.yaml")


@pytest.mark.parametrize("override", ["steps", "=3", "steps.more=1"])
def test_a_broken_override_is_named(override):
    with pytest.raises(ConfigError, match="override"):
        load(RunConfig, "tiny.yaml", [override])


def test_an_override_reaches_into_a_stage():
    config = load(AdaptConfig, "tiny_adapt.yaml", ["stages.0.steps=7", "stages.1.optimizer.lr=1e-4"])
    assert (config.stages[0].steps, config.stages[1].optimizer.lr) == (7, 1e-4)


def test_a_section_given_in_part_keeps_the_rest_of_its_place(tmp_path):
    stage = load(AdaptConfig, write(tmp_path, "stages: [{name: a, optimizer: {weight_decay: 0.0}}]")).stages[0]
    assert (stage.optimizer.lr, stage.optimizer.grad_norm, stage.optimizer.weight_decay) == (5e-3, 1.0, 0.0)
    assert load(RunConfig, write(tmp_path, "optimizer: {weight_decay: 0.0}")).optimizer.lr == 1e-6


def test_a_table_of_names_is_replaced_not_mixed(tmp_path):
    assert load(RunConfig, write(tmp_path, "reward: {functions: {code: 1}}")).reward.functions == {"code": 1.0}


def test_off_is_the_default_of_every_filter():
    config = SamplerConfig()
    assert (config.top_p, config.top_k, config.early_stop, config.cache) == (1.0, None, False, "none")
