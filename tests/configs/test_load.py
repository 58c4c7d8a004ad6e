"""Recipes, overrides and the errors a user meets."""

import pickle

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
        (
            "temperature: 1",
            "unknown key 'temperature': did you mean 'sampler.temperature' or 'evaluation.temperature'?",
        ),
        ("sampler: {top_p: .nan}", "sampler.top_p = nan: must be a finite number"),
        ("sampler: {steps: 3.0}", "sampler.steps = 3.0: expected a whole number"),
        ("sampler: {steps: true}", "sampler.steps = True: expected a whole number"),
        ("optimizer: {lr: '1e-6'}", "optimizer.lr = '1e-6': expected a number"),
        ("ray: {dashboard: maybe}", "ray.dashboard = 'maybe': expected true or false"),
        ("name: 3", "name = 3: expected text; put it in quotes"),
        ("model: {end_tokens: []}", "model.end_tokens = \\[\\]: needs at least 1"),
        ("reward: {functions: {code: .inf}}", "reward.functions.code = inf: must be a finite number"),
        ("3: 4", "unknown key '3'"),
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
        ("base: 3", r"recipe.yaml: base = 3: expected the path of a recipe"),
        ("base: recipe.yaml", "recipe.yaml: is its own base; remove"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path, text, message):
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


def test_a_recipe_of_the_other_command_is_named_as_one(tmp_path):
    recipe = write(tmp_path, "stages: [{}]\nlerner: {}\nname: a")
    with pytest.raises(ConfigError, match=r"recipe.yaml: is a recipe of `launch.py adapt`"):
        load(RunConfig, recipe)
    with pytest.raises(ConfigError, match=r"is a recipe of `launch.py train`"):
        load(AdaptConfig, "tiny.yaml")


def test_a_missing_recipe_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"'absent.yaml' does not exist; shipped recipes: .*tiny.yaml"):
        load(RunConfig, "absent.yaml")


@pytest.mark.parametrize("override", ["steps", "=3", "steps.more=1", "sampler..steps=3", "name=[", "sampler.order.0=1"])
def test_a_broken_override_is_named(override):
    with pytest.raises(ConfigError, match="override"):
        load(RunConfig, "tiny.yaml", [override])


def test_an_override_reaches_into_a_stage():
    config = load(AdaptConfig, "tiny_planted_adapt.yaml", ["stages.0.steps=7", "stages.1.optimizer.lr=1e-4"])
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


def lines_of(text, kind, folder):
    with pytest.raises(ConfigError) as caught:
        load(kind, write(folder, text))
    return [line.partition(":")[0] for line in str(caught.value).splitlines()]


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path):
    text = """
sampler: {temprature: 1, steps: many, cache: dual}
learner: {ranks: 3, gpus: -1}
"""
    assert lines_of(text, RunConfig, tmp_path) == [
        "sampler.steps = 'many'",
        "unknown key 'sampler.temprature'",
        "learner.gpus = -1",
        "sampler.cache = 'dual'",
        "replay.groups_per_step = 8",
    ]


def test_a_rule_is_not_checked_on_a_value_that_is_refused(tmp_path):
    assert lines_of("sampler: {cache: dual, block_length: none}", RunConfig, tmp_path) == [
        "sampler.block_length = 'none'"
    ]
    assert lines_of("{learner: {ranks: 3}, replay: {groups_per_step: 0}}", RunConfig, tmp_path) == [
        "replay.groups_per_step = 0"
    ]


def test_mistakes_in_a_list_of_stages_are_named_by_index(tmp_path):
    text = "stages: [{steps: 0}, {name: b, optimizer: {lrr: 1}}, {name: c, length: 1000}, 3]"
    assert lines_of(text, AdaptConfig, tmp_path) == [
        "stages.0.steps = 0",
        "unknown key 'stages.1.optimizer.lrr'",
        "stages[3] = 3",
    ]
    assert lines_of("stages: [{name: a}, {name: a}, {name: c, length: 1000}]", AdaptConfig, tmp_path) == [
        "stages.1.name = 'a'",
        "stages.2.length = 1000",
    ]


def test_plain_values_are_read_by_yaml_1_2(tmp_path):
    text = "{name: off, optimizer: {lr: 1e-3, eps: 1}, sampler: {temperature: 2}, model: {path: 2026-11-27}}"
    config = load(RunConfig, write(tmp_path, text))
    assert (config.name, config.optimizer.lr, config.model.path) == ("off", 1e-3, "2026-11-27")
    assert isinstance(config.optimizer.eps, float) and isinstance(config.sampler.temperature, float)
    config = load(RunConfig, "tiny.yaml", ["name=off", "optimizer.lr=2e-4", "sampler.top_k=null"])
    assert (config.name, config.optimizer.lr, config.sampler.top_k) == ("off", 2e-4, None)
    assert load(RunConfig, write(tmp_path, dump(config))) == config


@pytest.mark.parametrize("word, value", [("on", True), ("off", False), ("yes", True), ("no", False), ("true", True)])
def test_a_switch_understands_the_words_of_yaml_1_1(word, value):
    assert load(RunConfig, "tiny.yaml", [f"ray.dashboard={word}"]).ray.dashboard is value


def test_an_unlimited_upper_clip_is_allowed():
    assert load(RunConfig, "tiny.yaml", ["objective.clip_high=.inf"]).objective.clip_high == float("inf")


def test_a_section_is_checked_however_it_is_made():
    config = SamplerConfig(steps=8, completion_length=8)
    assert config.replace(steps=4) == SamplerConfig(steps=4, completion_length=8)
    for make in (lambda: SamplerConfig(steps=0), lambda: config.replace(steps=0)):
        with pytest.raises(ConfigError, match=r"^sampler.steps = 0: must be greater than 0 \(denoising steps"):
            make()
    with pytest.raises(ConfigError, match=r"unknown key 'sampler.stepz': did you mean 'sampler.steps'"):
        config.replace(stepz=4)
    with pytest.raises(ConfigError, match=r"replay.groups_per_step = 8: must be divisible by learner.ranks = 3"):
        tree = RunConfig()
        tree.replace(learner=tree.learner.replace(ranks=3))
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 4


def test_a_configuration_travels_to_other_processes():
    config = load(RunConfig, "tiny.yaml")
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config.sampler) == hash(config.sampler.replace())


def test_steps_above_the_canvas_are_warned_of(caplog):
    load(RunConfig, "tiny_planted.yaml", ["sampler.steps=64"]).warn()
    assert "sampler.steps = 64: more than sampler.completion_length = 32" in caplog.text
