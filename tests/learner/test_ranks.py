"""One and two ranks, plain torch and DeepSpeed: the same losses, the same weights, the same checkpoints."""

import numpy as np
import pytest

LOSSES = ("loss_inner_1", "loss_inner_2", "grad_norm", "kl_max", "ratio_max", "tokens_trained")
# Few enough updates, and a large epsilon: Adam divides by the gradient's size, so rounding would decide tiny ones.
CALM = {"optimizer": {"lr": 1e-2, "eps": 1e-3}}
STAGES = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 3},
    {"zero_stage": 2, "offload": "optimizer"},
    {"zero_stage": 3, "offload": "all"},
]


def same(left, right, tolerance):
    for one, other in zip(left["metrics"], right["metrics"], strict=True):
        for name in LOSSES:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name
    close = [np.frombuffer(result["weights"][0], dtype=np.float32) for result in (left, right)]
    np.testing.assert_allclose(*close, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def expected(alone):
    return alone("train", steps=3, engine="torch", **CALM)


def test_two_torch_ranks_train_as_one(pair, expected):
    first, second = pair.run("train", steps=3, engine="torch", **CALM)
    same(first, expected, 1e-4)
    assert second["weights"] is None and first["version"] == second["version"] == 3
    for one, other in zip(first["metrics"], second["metrics"]):
        assert all(one[name] == other[name] for name in (*LOSSES, "kl_median", "peak_memory_mb", "learn_seconds"))


def test_one_deepspeed_rank_trains_as_torch(alone, expected):
    same(alone("train", steps=3, engine="deepspeed", **CALM), expected, 1e-4)


@pytest.mark.parametrize("learner", [{"zero_stage": 0}, {"zero_stage": 3, "micro_completions": 3}])
def test_two_deepspeed_ranks_train_as_one_torch_rank(pair, expected, learner):
    same(pair.run("train", steps=3, engine="deepspeed", learner=learner, **CALM)[0], expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("learner", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_trains_as_torch(pair, alone, expected, learner, ranks):
    arguments = {"steps": 3, "engine": "deepspeed", "learner": learner, **CALM}
    found = alone("train", **arguments) if ranks == 1 else pair.run("train", **arguments)[0]
    same(found, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("learner", STAGES)
def test_every_stage_trains_in_bfloat16(pair, alone, learner):
    """Rounding differs between stages, so the bound is loose; the first loss is the same."""
    plain = alone("train", steps=2, engine="torch", learner={"dtype": "bfloat16"}, **CALM)["metrics"]
    for found in pair.run("train", steps=2, engine="deepspeed", learner=learner | {"dtype": "bfloat16"}, **CALM):
        assert found["metrics"][0]["loss_inner_1"] == pytest.approx(plain[0]["loss_inner_1"], abs=1e-5)
        assert found["metrics"][1]["loss_inner_1"] == pytest.approx(plain[1]["loss_inner_1"], abs=0.02)
        assert found["metrics"][0]["grad_norm"] == pytest.approx(plain[0]["grad_norm"], rel=0.05)


@pytest.mark.parametrize("learner", [{"zero_stage": 2}])
def test_resume_on_two_ranks_and_on_one(pair, alone, tmp_path, learner):
    resumes(pair, alone, tmp_path, learner)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("learner", STAGES)
def test_every_stage_resumes_on_two_ranks_and_on_one(pair, alone, tmp_path, learner, dtype):
    resumes(pair, alone, tmp_path, learner | {"dtype": dtype})


def resumes(pair, alone, tmp_path, learner):
    """Written by two ranks, read by two and by one; written by one, read by two: as if nothing had happened."""
    arguments = {"engine": "deepspeed", "learner": learner, "objective": {"reference_every": 4}, **CALM}
    tolerance = 1e-4 if learner.get("dtype") != "bfloat16" else 0.05
    straight = pair.run("train", steps=4, **arguments)[0]["metrics"][2:]
    pair.run("train", steps=2, save=str(tmp_path / "two"), **arguments)
    same_ranks = pair.run("train", steps=2, first=2, restore=str(tmp_path / "two"), **arguments)[0]
    fewer = alone("train", steps=2, first=2, restore=str(tmp_path / "two"), **arguments)
    alone("train", steps=2, save=str(tmp_path / "one"), **arguments)
    more = pair.run("train", steps=2, first=2, restore=str(tmp_path / "one"), **arguments)[0]
    for found in (same_ranks, fewer, more):
        assert found["version"] == 4
        for one, other in zip(found["metrics"], straight, strict=True):
            for name in ("loss_inner_1", "loss_inner_2", "lr"):
                assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name
    assert not (tmp_path / "two" / "engine" / "universal").exists()


def test_a_checkpoint_of_another_stage_is_refused(alone, tmp_path):
    alone("train", steps=1, engine="deepspeed", learner={"zero_stage": 1}, save=str(tmp_path))
    with pytest.raises(ValueError, match="zero_stage = 2: the checkpoint was written with 1"):
        alone("train", steps=1, first=1, engine="deepspeed", learner={"zero_stage": 2}, restore=str(tmp_path))


def test_a_checkpoint_of_another_engine_is_refused(alone, tmp_path):
    alone("train", steps=1, engine="torch", save=str(tmp_path))
    with pytest.raises(ValueError, match="not written by learner"):
        alone("train", steps=1, first=1, engine="deepspeed", restore=str(tmp_path))


@pytest.mark.parametrize("objective", ["pretrain", "instruct"])
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_supervised_stages_train_alike_on_one_and_two_ranks(pair, alone, objective, engine):
    """Seven rows on two ranks: the second rank's last micro-batch is padding."""
    one = alone("adapt", steps=3, objective=objective, engine="torch")
    for two in pair.run("adapt", steps=3, objective=objective, engine=engine):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert two["validation"] == pytest.approx(one["validation"], rel=1e-4)
