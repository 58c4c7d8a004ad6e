"""Actors that start in a second (no torch) and do what a test asks for; named in place of the real ones."""

from __future__ import annotations

import os
import time

import numpy as np
import ray

from couplet.actors.messages import ScoreReply, SwapReply, WorkerInfo
from couplet.actors.remote import WeightsLost
from couplet.actors.reward_actor import RewardActor
from couplet.data.trajectory import PromptGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.reward.sandbox.faults import TierUnavailable

CANVAS = 4
SLEEPER = "```python\nimport time\ntime.sleep({seconds})\ndef f(xs):\n    return {marker}\n```"


class ScriptedRollout:
    """Answers at once with programs that sleep; every program is another one, so none comes from the verdict cache."""

    text = SLEEPER
    seconds = 0.2

    def __init__(self, config, start, index):
        self.version = 0
        self.prepare(config)

    def prepare(self, config):
        """For subclasses."""

    def describe(self):
        return WorkerInfo.of(ray.get_runtime_context())

    def load_weights(self, weights):
        self.version = weights.version
        return SwapReply(self.version, 0.0, self.describe())

    def generate(self, requests, weights, sampler=None):
        self.version = weights.version
        groups = [self.group(request) for request in requests]
        return groups[0] if len(groups) == 1 else tuple(groups)

    def group(self, request):
        G = len(request.seeds_G)
        return PromptGroup(
            group_id=request.group_id,
            attempt=request.attempt,
            version=self.version,
            problem_id=request.problem_id,
            prompt_tokens=request.prompt_tokens,
            tokens_GC=np.zeros((G, CANVAS), np.int32),
            reveal_step_GC=np.zeros((G, CANVAS), np.int16),
            loss_mask_GC=np.ones((G, CANVAS), bool),
            texts=tuple(self.text.format(seconds=self.seconds, marker=seed) for seed in request.seeds_G),
            seeds_G=request.seeds_G,
            group_seed=request.group_seed,
            behaviour_GJC=None,
            metrics={"seconds": 0.0},
        )


class BrokenRollout(ScriptedRollout):
    """A defect of ours in the worker's code."""

    def group(self, request):
        raise KeyError(f"no room for {request.problem_id.split('/')[0]}")


class UnpicklableRollout(ScriptedRollout):
    """A defect whose exception cannot leave its process."""

    def group(self, request):
        class Local(Exception):
            def __reduce__(self):
                raise TypeError("stays here")

        raise Local("the original message")


class PoisonRollout(ScriptedRollout):
    """One group in three kills the process that judges it."""

    def group(self, request):
        group = super().group(request)
        object.__setattr__(group, "texts", tuple("" for _ in group.texts))
        if request.group_id.problem % 3 == 0:
            object.__setattr__(group, "texts", tuple("die" for _ in group.texts))
        return group


class ScriptedLearner:
    """Counts steps; its weights are a few bytes."""

    def __init__(self, config, start, rank):
        self.version = 0

    def rendezvous(self):
        return "127.0.0.1", 1

    def build(self, address, port):
        return WorkerInfo.of(ray.get_runtime_context())

    def learn(self, groups):
        self.version += 1
        return {"loss": 0.0}

    def weights(self):
        return ("manifest", [np.zeros(4, np.uint8)]), self.version

    def save(self, folder):
        pass

    def restore(self, folder):
        return self.version


class BrokenLearner(ScriptedLearner):
    """A defect in the learner, on a rank that stays alive."""

    def learn(self, groups):
        raise RuntimeError("the loss is a banana")


class ScriptedReward:
    """Instant verdicts, no sandbox."""

    def __init__(self, name, reward, sandbox, index):
        self.tier = "none"

    def describe(self):
        return WorkerInfo.of(ray.get_runtime_context(), self.tier)

    def score(self, problem, group, which, tiers=()):
        started = time.monotonic()
        verdicts = [self.verdict(group.texts[place], place) for place in which]
        return ScoreReply(verdicts, time.monotonic() - started, self.describe())

    def verdict(self, text, place):
        if text == "die":
            os._exit(1)
        return Verdict(Outcome.PASSED, float(place), parts={"code": 1.0})


class FaultyReward(ScriptedReward):
    """A sandbox that loses every fourth sample, however often it is asked."""

    def verdict(self, text, place):
        if place == 0:
            return Verdict(Outcome.INFRA_ERROR, float("nan"), reason="zygote")
        return super().verdict(text, place)


class ShakyReward(ScriptedReward):
    """A sandbox that loses a sample the first time it sees it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = set()

    def verdict(self, text, place):
        if (text, place) not in self.seen:
            self.seen.add((text, place))
            return Verdict(Outcome.INFRA_ERROR, float("nan"), reason="spawn")
        return super().verdict(text, place)


class RefusedReward:
    """No sandbox tier holds on this machine."""

    def __init__(self, name, reward, sandbox, index):
        raise TierUnavailable(
            "start", "no sandbox tier holds here:\nuser namespaces are off (EPERM)\nremedy: allow them"
        )

    def describe(self):
        return {}


class GreedyLearner(ScriptedLearner):
    """Needs more memory than its GPU has."""

    def learn(self, groups):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore than a screen of advice")


class SlowLearner(ScriptedLearner):
    """A healthy rank whose steps take longer than it is given."""

    def learn(self, groups):
        time.sleep(1000)


class ForgetfulRollout(ScriptedRollout):
    """Never finds the weights of an evaluation."""

    def generate(self, requests, weights, sampler=None):
        if sampler is not None:
            raise WeightsLost("weights version 0: OwnerDiedError")
        return super().generate(requests, weights)


class UnresponsiveReward(ScriptedReward):
    """Never answers."""

    def score(self, problem, group, which, tiers=()):
        time.sleep(1000)


class FallenReward(RewardActor):
    """A real reward actor that comes up in the tier `rlimits` wherever it is started after the first one."""

    def __init__(self, name, reward, sandbox, index):
        super().__init__(name, reward, sandbox, index)
        if index > 0:
            self.worker.tier = "rlimits"


class UnresponsiveRollout(ScriptedRollout):
    """Never answers."""

    def group(self, request):
        time.sleep(1000)


class DyingRollout(ScriptedRollout):
    """Dies over every group, as a process that runs out of memory would."""

    def group(self, request):
        os._exit(1)


GENERATE, JUDGE, LEARN, PUBLISH = 0.8, 0.3, 1.0, 0.4  # seconds of the sleepers' work, per group, group, step, version


class SleepyRollout(ScriptedRollout):
    """Needs the same time for every group."""

    text = "any"

    def group(self, request):
        time.sleep(GENERATE)
        return super().group(request)


class SleepyReward(ScriptedReward):
    """Needs the same time for every group."""

    def verdict(self, text, place):
        if place == 0:
            time.sleep(JUDGE)
        return super().verdict(text, place)


class SleepyLearner(ScriptedLearner):
    """Needs the same time for every step, and for giving out its weights."""

    def learn(self, groups):
        time.sleep(LEARN)
        return super().learn(groups)

    def weights(self):
        time.sleep(PUBLISH)
        return super().weights()
