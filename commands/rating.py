"""Rating problems by a model, our own policy or a served one: the driver of `prepare rate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from couplet.commands.backends import open_evaluator
from couplet.commands.display import Display
from couplet.commands.served import Served
from couplet.commands.subject import Subject, weights_fingerprint, with_scoring_limits
from couplet.configs.load import read_recipe, resolve, to_dict
from couplet.configs.schema import ConfigError, RunConfig, SamplerConfig
from couplet.data.answers import program_of_answer
from couplet.data.files import write_json
from couplet.data.fingerprint import fingerprint
from couplet.data.formats.parquet import write_parquet
from couplet.data.formats.wording import ANSWER_PREFIX
from couplet.data.levels import Level
from couplet.data.prepare import require_parquet
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet
from couplet.data.rate import Rating, rate, read_completions, select_level
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


def run_rating(
    subject: Subject, served: Served | None, sampling: Sampling, level: Level, console: Console
) -> dict[str, Any]:
    """Rate every problem, write those of `level` to `subject.out` (Parquet), and print the model's pass@k.

    Beside it are written `.completions.jsonl` and `.ratings.jsonl` (texts and pass rates of each problem, from which an
    interrupted rating resumes), `.run.json` (what they belong to, stored with the first) and `.summary.json`. An answer
    of a served model is judged by the program in it, whatever the text around it; one of our own policy under the format
    rule it is trained with.

    Args:
        subject: problems, settings, and our own policy, if that is rated.
        served: else the model.
        sampling: completions per problem and how they are drawn; a policy takes its own decoder at that temperature.
        level: `all`, `easy`, `medium` or `hard`, by percentiles over the rated problems.

    Raises:
        ConfigError, ValueError: a mistake of the user, by name.
        EndpointError: the server cannot be reached, or rejects a request.
    """
    out = subject.out
    assert out is not None, "--out is required"
    require_parquet(out, subject.problems)
    if served is None:
        folder, config = subject.open()
        config = config.replace(sampler=config.sampler.replace(temperature=sampling.temperature))
        prompts = subject.prompts(config, folder)
        facts, found = policy_facts(folder, prompts, config), list(prompts.problems)
    else:
        config = resolve(RunConfig, {} if subject.recipe is None else read_recipe(subject.recipe), subject.overrides)
        config = with_scoring_limits(config, subject.overrides)
        found = load_problems(subject.problems, seed=config.problems.seed, limit=subject.limit)
        served = served.named()
        facts = {"model": served.model, "base": served.base}
    facts |= {"sampling": str(sampling), **subject.facts(config, found)}
    check_run(_run_file(out), facts, _result_files(out))
    with ExitStack() as ends:
        evaluator = ends.enter_context(open_evaluator(config, local=subject.local))
        console.print(f"{subject.problems}: {evaluator.describe()}", highlight=False, soft_wrap=True)
        rater: Rater
        if served is None:
            rater = PolicyRater(evaluator, folder, prompts, config.sampler, sampling)
        else:
            rater = ServedRater(evaluator, ends.enter_context(served.client(local=subject.local)), sampling)
        ratings = _rate(found, rater, out, facts, console)
    return _write(found, ratings, level, out, facts, console)


def policy_facts(folder: Path, prompts: PromptSet, config: RunConfig) -> dict[str, Any]:
    """What the ratings of a policy depend on besides problems, sampling and judging."""
    framed = (len(tokens).to_bytes(8, "little") + tokens.tobytes() for tokens in prompts.prompts)
    return {
        "policy": str(folder),
        "weights": weights_fingerprint(folder),
        "model": {"dtype": config.model.dtype, "end_tokens": config.model.end_tokens},
        "prompt_print": fingerprint(framed),
        "sampler": to_dict(config.sampler),
    }


class Rater(Protocol):
    """Samples and judges."""

    def sample(self, problems: Sequence[Problem]) -> Iterable[list[str]]:
        """Texts of the completions of every problem, each as soon as it is there."""

    def judge(self, problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[float | None]]:
        """The pass rate of each completion; None if the sandbox gave no verdict."""


class PolicyRater:
    """Samples on the rollout actors; the verdicts come along and are handed out when they are asked for."""

    def __init__(
        self, evaluator: Evaluator, folder: Path, prompts: PromptSet, sampler: SamplerConfig, sampling: Sampling
    ) -> None:
        self.evaluator, self.folder, self.sampler, self.sampling = evaluator, folder, sampler, sampling
        self.prompts = prompts
        self.places = {problem.problem_id: place for place, problem in enumerate(prompts.problems)}
        self.verdicts: dict[str, tuple[Verdict, ...]] = {}

    def sample(self, problems: Sequence[Problem]) -> list[list[str]]:
        part = self.prompts.take(self.places[problem.problem_id] for problem in problems)
        seed = self.sampling.seed or 0
        scored = self.evaluator.evaluate(self.folder, EvalRequest(part, self.sampler, self.sampling.samples, seed))
        self.verdicts |= {group.group.problem_id: group.verdicts for group in scored}
        return [list(group.group.texts) for group in scored]

    def judge(self, problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[float | None]]:
        earlier = [i for i, problem in enumerate(problems) if problem.problem_id not in self.verdicts]
        if earlier:  # an earlier process has sampled them
            some, texts = [problems[i] for i in earlier], [completions[i] for i in earlier]
            found = self.evaluator.judge(some, texts)
            self.verdicts |= {p.problem_id: tuple(verdicts) for p, verdicts in zip(some, found, strict=True)}
        return [pass_rates(self.verdicts.pop(problem.problem_id)) for problem in problems]


class ServedRater:
    """Samples from an endpoint; prompts that share a system message and stops go out together.

    What is judged is the program in each text: a fenced block, a whole program, or a continuation of the prompt.
    """

    def __init__(self, evaluator: Evaluator, client: Client, sampling: Sampling) -> None:
        self.evaluator, self.client, self.sampling = evaluator, client, sampling

    def sample(self, problems: Sequence[Problem]) -> Iterator[list[str]]:
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

    def judge(self, problems: Sequence[Problem], completions: Sequence[Sequence[str]]) -> list[list[float | None]]:
        programs = [[program_of_answer(text, p) for text in texts] for p, texts in zip(problems, completions)]
        return [pass_rates(verdicts) for verdicts in self.evaluator.judge(problems, programs, programs=True)]

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


def pass_rates(verdicts: Sequence[Verdict]) -> list[float | None]:
    """The pass rate of each completion; None if the sandbox gave no verdict."""
    return [verdict.pass_rate if verdict.outcome.is_verdict else None for verdict in verdicts]


def _run_file(out: Path) -> Path:
    return out.with_suffix(".run.json")


def _result_files(out: Path) -> list[Path]:
    """The ratings, and the completions that were rated."""
    return [out.with_suffix(".ratings.jsonl"), out.with_suffix(".completions.jsonl")]


def _rate(
    problems: Sequence[Problem], rater: Rater, out: Path, facts: dict[str, Any], console: Console
) -> list[Rating]:
    """Every rating; the facts are stored with the first texts: a rating that never began restricts no later one."""
    files, ratings = _result_files(out), list[Rating]()
    sampled = len(read_completions(files[1]))
    with Display(console).bar("rating", len(problems)) as bar:

        def texts_of(some: Sequence[Problem]) -> Iterator[list[str]]:
            nonlocal sampled
            for texts in rater.sample(some):
                same_run(_run_file(out), facts, files)
                sampled += 1
                bar.update(len(ratings), f"{sampled} sampled")
                yield texts

        for rating in rate(problems, texts_of, rater.judge, files[0], completions_file=files[1]):
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
