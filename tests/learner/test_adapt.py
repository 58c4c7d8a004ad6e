import os

import pytest
import torch

from couplet.configs.schema import LearnerConfig, OptimizerConfig, StageConfig
from couplet.learner.adapt import EarlyStop, SupervisedLearner, fastest_threads, run_stage
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from tests.learner.toys import instruct_batches, packed_batches, toy_policy, weights_of

FAST = OptimizerConfig(lr=1e-2, warmup_ratio=0.0, grad_norm=1.0, weight_decay=0.0)


def make(stage, policy=None, **learner):
    policy = policy or toy_policy()
    engine = build_engine(Setup(policy, stage.optimizer, LearnerConfig(engine="torch", **learner), stage.steps))
    return SupervisedLearner(engine, policy, stage, seed=1)


def stage(objective, steps=60, **fields):
    fields = {"optimizer": FAST, "canvas": 5, "length": 12, "batch": 8} | fields
    return StageConfig(name="stage", objective=objective, steps=steps, **fields)


@pytest.mark.parametrize("objective", ["autoregressive", "pretrain", "instruct"])
def test_every_objective_learns(objective):
    config = stage(objective)
    batches = instruct_batches if objective == "instruct" else packed_batches
    learner = make(config)
    validation = [next(batches(10_000))]
    before = learner.validate(validation)
    run_stage(learner, config, batches())
    after = learner.validate(validation)
    assert after < 0.7 * before
    assert learner.validate(validation) == after


def test_an_annealed_stage_is_validated_with_full_attention():
    policy, validation = toy_policy(), [next(packed_batches())]
    full, annealed = (make(stage("pretrain", anneal_steps=steps), policy) for steps in (0, 50))
    assert annealed.validate(validation) == full.validate(validation)


def test_the_autoregressive_loss_is_the_mean_next_token_cross_entropy():
    policy = toy_policy()
    batch = next(packed_batches())
    found = make(stage("autoregressive"), policy).validate([batch])
    tokens = torch.from_numpy(batch.tokens_BL)
    logp = []
    with torch.no_grad():
        for end in range(1, tokens.shape[1]):  # the last position of a bidirectional prefix sees what a causal one sees
            visible = torch.ones(8, end, end, dtype=torch.bool).tril()
            hidden = policy.model(tokens[:, :end], None, visible)[:, -1]
            logp.append(torch.log_softmax(policy.head(hidden), dim=-1).gather(1, tokens[:, end : end + 1]))
    assert found == pytest.approx(-float(torch.cat(logp).mean()), rel=1e-5)


@pytest.mark.parametrize("objective", ["pretrain", "instruct"])
def test_micro_rows_do_not_change_the_update(objective):
    batches = instruct_batches if objective == "instruct" else packed_batches
    results = []
    for micro_rows in (None, 3):
        policy = toy_policy()
        # A large epsilon makes the first step of Adam linear in the gradient.
        optimizer = OptimizerConfig(lr=1.0, eps=1e3, warmup_ratio=0.0, grad_norm=1e9, weight_decay=0.0)
        config = stage(objective, micro_rows=micro_rows, optimizer=optimizer)
        metrics = make(config, policy).learn(next(batches()))
        results.append((metrics["loss"], weights_of(policy)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, weight in results[0][1].items():
        torch.testing.assert_close(weight, results[1][1][name], rtol=0, atol=1e-6)


def test_resume_equals_uninterrupted(tmp_path):
    config = stage("instruct", steps=6, validate_every=2, patience=5)
    validation = [next(instruct_batches(10_000))]
    straight = make(config)
    run_stage(straight, config, instruct_batches(), validation)
    first = make(config)
    run_stage(first, stage("instruct", steps=3, validate_every=2, patience=5), instruct_batches(), validation)
    first.save(tmp_path)
    second = make(config, toy_policy(seed=9))
    second.restore(tmp_path)
    assert second.updates == 3 and second.early_stop == first.early_stop
    run_stage(second, config, instruct_batches(start=3), validation)
    assert second.early_stop == straight.early_stop
    for name, weight in weights_of(straight._policy).items():
        assert torch.equal(weight, weights_of(second._policy)[name])


def test_early_stop_waits_for_as_many_validations_as_configured():
    stop = EarlyStop(patience=2)
    assert [stop.update(loss) for loss in (3.0, 2.0, 2.5, 1.9, 2.0, 2.1)] == [False, False, False, False, False, True]
    assert not any(EarlyStop(patience=0).update(loss) for loss in (1.0, 2.0, 3.0, 4.0))


def test_a_stage_stops_early_when_validation_does_not_improve():
    still = OptimizerConfig(lr=1e-12, warmup_ratio=0.0)
    config = stage("instruct", steps=50, validate_every=1, patience=3, optimizer=still)
    learner = make(config)
    seen = []
    validation = [next(instruct_batches(10_000))]
    run_stage(learner, config, instruct_batches(), validation, lambda updates, metrics: seen.append(metrics))
    assert learner.updates < 10 and all("validation_loss" in metrics for metrics in seen)


def test_a_corpus_that_ends_early_is_named():
    config = stage("instruct", steps=5)
    with pytest.raises(ValueError, match=r"stages\.stage: the corpus ended after 1 of 5 updates"):
        run_stage(make(config), config, [next(instruct_batches())])


def test_progress_is_reported_after_every_update():
    config, seen = stage("instruct", steps=4), []
    metrics = run_stage(
        make(config), config, instruct_batches(), progress=lambda done, found: seen.append((done, found))
    )
    assert [done for done, _ in seen] == [1, 2, 3, 4] and seen[-1][1] == metrics
    assert metrics["tokens_per_second"] > 0 and metrics["model_flops_per_second"] > 0


def test_a_stage_may_be_run_in_pieces():
    config = stage("instruct", steps=4)
    whole, pieces = make(config), make(config)
    run_stage(whole, config, instruct_batches())
    source = instruct_batches()
    for until in (1, 3, 9):
        run_stage(pieces, config, source, until=until)
    for name, weight in weights_of(whole._policy).items():
        assert torch.equal(weight, weights_of(pieces._policy)[name])


def test_the_thread_probe_changes_neither_weights_nor_threads():
    learner = make(stage("instruct"))
    before, threads = weights_of(learner._policy), torch.get_num_threads()
    assert fastest_threads(learner._policy, learner, next(instruct_batches())) in (1, os.cpu_count())
    assert torch.get_num_threads() == threads and learner.updates == 0
    for name, weight in weights_of(learner._policy).items():
        assert torch.equal(weight, before[name])
