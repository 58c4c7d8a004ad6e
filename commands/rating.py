"""Rating problems by a model, our own policy or a served one: the driver of `prepare rate`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from couplet.commands.backends import open_evaluator
from couplet.commands.display import Display
from couplet.commands.subject import (
    judging_facts,
    open_policy,
    problems_fingerprint,
    prompts_of,
    weights_fingerprint,
    with_scoring_limits,
)
from couplet.configs.load import read_recipe, resolve, to_dict
from couplet.configs.schema import ConfigError, RunConfig, SamplerConfig
from couplet.data.files import write_json
from couplet.data.fingerprint import fingerprint
from couplet.data.formats.parquet import write_parquet
from couplet.data.formats.wording import ANSWER_PREFIX
from couplet.data.levels import Level
from couplet.data.prepare import require_parquet
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet
from couplet.data.rate import Judge, Rating, Sample, rate, read_completions, select_level
from couplet.data.seeds import derive_seed
from couplet.data.verdict import Verdict
from couplet.evaluation.pass_at_k import estimate
from couplet.evaluation.records import check_run, same_run
from couplet.evaluation.request import EvalRequest
from couplet.serving.completions import Client, Sampling

if TYPE_CHECKING:
    from couplet.training.evaluator import Evaluator

# Where a base model that continues HumanEval's prompt has gone past the function, and past a fenced answer.
CONTINUATION_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(")
FENCE_STOPS = ("```",)
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Served:
    """An autoregressive model behind the completions protocol.

    Exactly one of `endpoint` and `vllm` is given.

    Attributes:
        endpoint: address of a running server, up to and including the version.
        vllm: model for which `vllm serve` is started, with `python` of its environment, on `gpus`.
        options: further options of `vllm serve`.
        ready_seconds: time limit for its start.
        model: name at the server; None takes its first.
        base: the model is not a chat model: it continues the problem's code, or an answer begun for it.
        concurrency: requests under way at a time.
        request_seconds: time limit of one request.
    """

    endpoint: str | None = None
    vllm: str | None = None
    python: str | None = None
    gpus: float = 0.0
    options: tuple[str, ...] = ()
    ready_seconds: float = 1200.0
    model: str | None = None
    base: bool = False
    concurrency: int = 32
    request_seconds: float = 600.0

    def client(self, url: str, key: str | None) -> Client:
        """A client of the server at `url`."""
        limits = {"concurrency": self.concurrency, "timeout": self.request_seconds}
        return Client(url, self.model if self.endpoint else None, chat=not self.base, api_key=key, **limits)


def run_rating(
    problems: str,
    out: Path,
    *,
    policy: str | None = None,
    served: Served | None = None,
    sampling: Sampling,
    level: Level = "hard",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    local: bool = False,
    console: Console,
) -> dict[str, Any]:
    """Rate every problem, write those of `level` to `out` (Parquet), and print the model's pass@k.

    Beside `out` it writes `.completions.jsonl` and `.ratings.jsonl` (texts and pass rates of each problem, from which an
    interrupted rating resumes), `.run.json` (what they belong to, stored with the first) and `.summary.json`. An answer of a served model is judged
    by the program in it, whatever the text around it; one of our own policy under the format rule it is trained with.

    Args:
        problems: as `data.problem_sets.load_problems`.
        policy: folder of our own policy; else `served` names the model.
        sampling: completions per problem and how they are drawn; a policy takes its own decoder at that temperature.
        level: `all`, `easy`, `medium` or `hard`, by percentiles over the rated problems.
        recipe, overrides, limit, local: as in `commands.subject.Subject`.

    Raises:
        ConfigError, ValueError: a mistake of the user, by name.
        EndpointError: the server cannot be reached, or rejects a request.
    """
    facts: dict[str, Any]
    require_parquet(Path(out), problems)
    if policy is not None:
        folder, config = open_policy(policy, recipe, overrides)
        prompts = prompts_of(config, folder, problems, limit, overrides)
        facts = policy_facts(folder, prompts, config, sampling)
        found = list(prompts.problems)
    else:
        assert served is not None, "a policy or a served model"
        config = resolve(RunConfig, {} if recipe is None else read_recipe(recipe), overrides)
        config = with_scoring_limits(config, overrides)
        found = load_problems(problems, seed=config.problems.seed, limit=limit)
        served = with_model(served)
        facts = {"model": served.model, "base": served.base}
    facts |= {"problems": problems, "problem_print": problems_fingerprint(found), "sampling": str(sampling)}
    facts |= judging_facts(config)
    check_run(_run_file(out), facts, _result_files(out))
    with open_evaluator(config, local=local) as evaluator:
        console.print(f"{problems}: {evaluator.describe()}", highlight=False, soft_wrap=True)
        if policy is not None:
            rater = PolicyRater(evaluator, folder, prompts, config, sampling)
            ratings = _rate(found, rater.sample, rater.judge, out, facts, console)
        else:
            assert served is not None
            with _client(served, local) as client:
                rate_served = ServedRater(client, sampling).sample
                ratings = _rate(found, rate_served, program_judge(evaluator), out, facts, console)
    return _write(found, ratings, level, out, facts, console)


def with_model(served: Served) -> Served:
    """`served` with its model named: the one that is started, or the one an endpoint answers with.

    Raises:
        EndpointError: the server cannot be reached, or offers no model.
    """
    if served.endpoint is None:
        return dataclasses.replace(served, model=served.vllm)
    return dataclasses.replace(served, model=_endpoint(served).model_name())


def policy_facts(folder: Path, prompts: PromptSet, config: RunConfig, sampling: Sampling) -> dict[str, Any]:
    """What the ratings of a policy depend on besides problems, sampling and judging."""
    framed = (len(tokens).to_bytes(8, "little") + tokens.tobytes() for tokens in prompts.prompts)
    return {
        "policy": str(folder),
        "weights": weights_fingerprint(folder),
        "model": {"dtype": config.model.dtype, "end_tokens": config.model.end_tokens},
        "prompt_print": fingerprint(framed),
        "sampler": to_dict(rating_sampler(config, sampling)),
    }


def rating_sampler(config: RunConfig, sampling: Sampling) -> SamplerConfig:
    """The policy's own decoder at the temperature of the rating."""
    return config.sampler.replace(temperature=sampling.temperature)


class PolicyRater:
    """Samples on the rollout actors; the verdicts come along and are handed out when they are asked for."""

    def __init__(
        self, evaluator: Evaluator, folder: Path, prompts: PromptSet, config: RunConfig, sampling: Sampling
    ) -> None:
        self.evaluator, self.folder, self.sampling = evaluator, folder, sampling
        self.sampler = rating_sampler(config, sampling)
        self.prompts = prompts
        self.places = {problem.problem_id: place for place, problem in enumerate(prompts.problems)}
        self.verdicts: dict[str, tuple[Verdict, ...]] = {}

    def sample(self, problems: Sequence[Problem]) -> list[list[str]]:
        """Texts of the completions of every problem."""
        part = self.prompts.take(self.places[problem.problem_id] for problem in problems)
        seed = self.sampling.seed or 0
        scored = self.evaluator.evaluate(self.folder, EvalRequest(part, self.sampler, self.sampling.samples, seed))
        self.verdicts |= {group.group.problem_id: group.verdicts for group in scored}
        return [list(group.group.texts) for group in scored]

    def judge(self, problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[float | None]]:
        """Pass rates of what `sample` returned; texts that an earlier process sampled are judged now."""
        earlier = [i for i, problem in enumerate(problems) if problem.problem_id not in self.verdicts]
        if earlier:
            some, texts = [problems[i] for i in earlier], [completions[i] for i in earlier]
            found = self.evaluator.judge(some, texts)
            self.verdicts |= {p.problem_id: tuple(verdicts) for p, verdicts in zip(some, found, strict=True)}
        return [pass_rates(self.verdicts.pop(problem.problem_id)) for problem in problems]


class ServedRater:
    """Samples from an endpoint; prompts that share a system message and stops go out together."""

    def __init__(self, client: Client, sampling: Sampling) -> None:
        self.client, self.sampling = client, sampling

    def sample(self, problems: Sequence[Problem]) -> Iterator[list[str]]:
        """Texts of the completions of every problem, each as soon as it is there."""
        kinds = [self._kind(problem) for problem in problems]
        answers: dict[tuple[str | None, tuple[str, ...]], Iterator[list[str]]] = {}
        for kind in dict.fromkeys(kinds):
            members = [i for i, other in enumerate(kinds) if other == kind]
            system, stops = kind
            client = dataclasses.replace(self.client, system=system)
            sampling = dataclasses.replace(self.sampling, stop=stops, seed=self._seed(problems[members[0]]))
            answers[kind] = client.complete_many([self._prompt(problems[i]) for i in members], sampling)
        for kind in kinds:
            yield next(answers[kind])

    def _kind(self, problem: Problem) -> tuple[str | None, tuple[str, ...]]:
        if self.client.chat:
            return problem.metadata.get("system"), ()
        return None, CONTINUATION_STOPS if problem.code_prefix else FENCE_STOPS

    def _prompt(self, problem: Problem) -> str:
        if self.client.chat:
            return problem.question
        return problem.code_prefix or f"{problem.question}\n{ANSWER_PREFIX}"

    def _seed(self, first: Problem) -> int | None:
        """Distinct per batch, since a request's seed is this one plus its place in the batch."""
        seed = self.sampling.seed
        return None if seed is None else derive_seed(seed, f"rate {first.problem_id}") % 2**31


def program_judge(evaluator: Evaluator) -> Judge:
    """Judges the program in each text: a fenced block, a whole program, or a continuation of the prompt."""
    from couplet.data.answers import program_of_answer

    def judge(problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[float | None]]:
        programs = [[program_of_answer(text, p) for text in texts] for p, texts in zip(problems, completions)]
        return [pass_rates(verdicts) for verdicts in evaluator.judge(problems, programs, programs=True)]

    return judge


def pass_rates(verdicts: Sequence[Verdict]) -> list[float | None]:
    """The pass rate of each completion; None if the sandbox gave no verdict."""
    return [verdict.pass_rate if verdict.outcome.is_verdict else None for verdict in verdicts]


@contextmanager
def _client(served: Served, local: bool) -> Iterator[Client]:
    """A client of the running server, or of one that is started for the time of the block."""
    if served.endpoint is not None:
        yield _endpoint(served)
        return
    assert served.vllm is not None
    with _serving(served, local) as (url, key):
        yield served.client(url, key)


def _endpoint(served: Served) -> Client:
    assert served.endpoint is not None
    return served.client(served.endpoint, os.environ.get(KEY_VARIABLE))


@contextmanager
def _serving(served: Served, local: bool) -> Iterator[tuple[str, str]]:
    assert served.vllm is not None
    if not local:
        from couplet.actors.vllm_actor import serving_on_ray

        with serving_on_ray(
            served.vllm,
            python=served.python,
            gpus=served.gpus,
            options=served.options,
            timeout=served.ready_seconds,
        ) as found:
            yield found
        return
    from couplet.learner.rendezvous import free_port
    from couplet.serving.vllm_server import VllmServer

    server = VllmServer(served.vllm, free_port(), python=served.python, options=served.options)
    try:
        server.wait_ready(served.ready_seconds)
        yield server.url, server.key
    finally:
        server.close()


def _run_file(out: Path) -> Path:
    return out.with_suffix(".run.json")


def _ratings_file(out: Path) -> Path:
    return out.with_suffix(".ratings.jsonl")


def _completions_file(out: Path) -> Path:
    return out.with_suffix(".completions.jsonl")


def _result_files(out: Path) -> list[Path]:
    return [_ratings_file(out), _completions_file(out)]


def _rate(
    problems: Sequence[Problem], sample: Sample, judge: Judge, out: Path, facts: dict[str, Any], console: Console
) -> list[Rating]:
    """Every rating; the facts are stored with the first texts, so that a rating that never began restricts no later one."""
    sampled = len(read_completions(_completions_file(out)))
    ratings: list[Rating] = []
    with Display(console).bar("rating", len(problems)) as bar:

        def texts_of(some: Sequence[Problem]) -> Iterator[list[str]]:
            nonlocal sampled
            for texts in sample(some):
                same_run(_run_file(out), facts, _result_files(out))
                sampled += 1
                bar.update(len(ratings), f"{sampled} sampled")
                yield texts

        for rating in rate(problems, texts_of, judge, _ratings_file(out), completions_file=_completions_file(out)):
            ratings.append(rating)
            bar.update(len(ratings), f"{sampled} sampled")
    return ratings


def _write(
    problems: Sequence[Problem],
    ratings: Sequence[Rating],
    level: Level,
    out: Path,
    facts: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    kept, choice = select_level(problems, ratings, level)
    if not kept:
        raise ConfigError(f"--level {level}: none of {len(problems)} problems is of that level: {dict(choice.dropped)}")
    write_parquet(kept, out)
    counts = [(len(rating.rates), rating.solved) for rating in ratings if rating.rates]
    most = max((judged for judged, _ in counts), default=0)
    scores = {}
    for k in dict.fromkeys((1, most)):
        able = [pair for pair in counts if pair[0] >= k]
        if able:
            scores[f"pass@{k}"] = estimate(able, k)
    for name, found in scores.items():
        console.print(f"{name}: {found} over {found.problems} problems", highlight=False)
    summary = {
        **facts,
        "level": level,
        "problems": len(problems),
        "kept": len(kept),
        "dropped": dict(choice.dropped),
        "thresholds": choice.thresholds,
        "lost": sum(rating.lost for rating in ratings),
        **{name: dataclasses.asdict(found) for name, found in scores.items()},
    }
    write_json(out.with_suffix(".summary.json"), summary)
    dropped = ", ".join(f"{count} {reason}" for reason, count in choice.dropped.items() if count)
    note = f" ({dropped})" if dropped else ""
    console.print(f"{len(kept)} of {len(problems)} problems are {level}{note}: {out}", highlight=False, soft_wrap=True)
    return summary
