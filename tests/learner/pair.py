"""Two learner ranks as plain processes that stay up: one start, many tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from multiprocessing.connection import wait
from pathlib import Path

TIMEOUT = 120.0


def train(rank, ranks, steps, first=0, save=None, restore=None, **arguments):
    """Learner steps `first` .. `first + steps` of the toy run on one rank of `ranks`: metrics and final weights."""
    from tests.learner.toys import toy_groups, toy_learner, toy_policy

    learner = toy_learner(toy_policy(), rank=rank, ranks=ranks, **arguments)
    if restore:
        learner.restore(Path(restore))
    metrics = [learner.learn(toy_groups(step)) for step in range(first, first + steps)]
    if save:
        learner.save(Path(save))
    packed = learner.weights()
    weights = None if packed is None else [bucket.tobytes() for bucket in packed[1]]
    return {"metrics": metrics, "weights": weights, "version": learner.version}


def adapt(rank, ranks, steps, objective, engine, **learner):
    """Updates of a supervised stage on one rank of `ranks`: losses and validation loss."""
    from couplet.configs.schema import LearnerConfig, OptimizerConfig, StageConfig
    from couplet.learner.adapt import SupervisedLearner
    from couplet.learner.engine import Setup
    from couplet.learner.engines import build_engine
    from tests.learner.toys import supervised_batches, toy_policy

    optimizer = OptimizerConfig(lr=1e-2, warmup_ratio=0.0, grad_norm=1.0)
    stage = StageConfig(name="x", objective=objective, steps=steps, canvas=5, micro_rows=2, optimizer=optimizer)
    policy = toy_policy()
    built = build_engine(
        Setup(policy, optimizer, LearnerConfig(engine=engine, ranks=ranks, **learner), steps, rank, ranks)
    )
    supervised = SupervisedLearner(built, policy, stage, seed=1)
    batches = supervised_batches(objective, rows=7)
    losses = [supervised.learn(next(batches))["loss"] for _ in range(steps)]
    return {"losses": losses, "validation": supervised.validate([next(batches)])}


TASKS = {"train": train, "adapt": adapt}


def serve(rank, port, pipe):
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo", DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    while True:
        name, arguments = pipe.recv()
        try:
            pipe.send((True, TASKS[name](rank, 2, **arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))


class Pair:
    """Both processes; `run` calls a task on both ranks and returns the two results."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pipes, self.processes = [], []
        for rank in range(2):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, port, theirs), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)

    def run(self, task, **arguments):
        for pipe in self.pipes:
            pipe.send((task, arguments))
        results = {}
        while len(results) < 2:
            waiting = [pipe for pipe in self.pipes if pipe not in results]
            ready = wait(waiting, TIMEOUT)
            assert ready, f"{len(waiting)} ranks did not answer within {TIMEOUT} s"
            for pipe in ready:
                fine, results[pipe] = pipe.recv()
                assert fine, f"rank {self.pipes.index(pipe)}: {results[pipe]}"
        return [results[pipe] for pipe in self.pipes]

    def close(self):
        for process in self.processes:
            process.kill()
            process.join()
