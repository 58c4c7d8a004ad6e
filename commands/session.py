"""Prompts typed in a terminal, and the answers as they are denoised: the driver of `sample`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from couplet.configs.errors import UserError
from couplet.configs.load import from_dict
from couplet.configs.schema import SamplerConfig
from couplet.data.answers import ANY_FENCE, program_of_answer
from couplet.data.files import writing
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed
from couplet.data.tokenizer import Tokenizer, completion_text, load_tokenizer
from couplet.model.device import check_device
from couplet.model.policy import DiffusionPolicy
from couplet.report.animation import write_gif, write_svg
from couplet.report.trace import END, MASKED, Trace, answer_pieces, step_colour
from couplet.rollout.sampler import sample
from couplet.training.policy_settings import settings_tree

FRAME_SECONDS = 0.04  # between two frames in a terminal, so that a small model can be followed
QUIT = ("exit", "quit", ":q")


@dataclass(frozen=True)
class Sampling:
    """What samples: a policy, its tokenizer, how to decode, and the seed; each prompt of a session gets its own."""

    policy: DiffusionPolicy
    tokenizer: Tokenizer
    config: SamplerConfig
    seed: int = 0

    @classmethod
    def load(
        cls, folder: Path, changes: Mapping[str, Any] | None = None, seed: int = 0, device: str = "cpu"
    ) -> Sampling:
        """From a policy's Hugging Face folder with its tokenizer; `changes` as in `sampler_of`.

        Raises:
            ValueError: the folder is not a policy.
            ConfigError: a device or sampler options that cannot work.
        """
        check_device(device, "--device", device, "use --device cpu, or cuda if torch sees a GPU")
        policy = DiffusionPolicy.from_pretrained(folder, device=device).eval()
        return cls(policy, load_tokenizer(folder), sampler_of(folder, changes or {}), seed)


def run_sample(
    sampling: Sampling,
    *,
    once: str | None = None,
    gif: Path | None = None,
    svg: Path | None = None,
    console: Console | None = None,
    read: Callable[[str], str] = input,
) -> None:
    """Answer one prompt, or prompts typed until an empty line.

    Args:
        once: answer this and return. If the output is not a terminal, only the answer's text is printed.
        gif, svg: where to write the trace of the last prompt as an animation.
        console: output; by default the terminal.
        read: asks for a prompt.

    Raises:
        ValueError: the sampler rejects the prompt (`once`).
        ConfigError: a file that cannot be written.
    """
    console, config = console or Console(), sampling.config
    if once is not None:
        _export(show_answer(sampling, once, console), gif, svg, console)
        return
    console.print(
        f"[bold]{sampling.policy.source}[/bold]: {config.order} order, {config.steps} steps, canvas of "
        f"{config.completion_length} tokens, T = {config.temperature:g}. An empty line ends.",
        highlight=False,
    )
    number = 0
    while (question := _ask(read)) is not None:
        try:
            own = replace(sampling, seed=derive_seed(sampling.seed, "sample", number))
            trace = show_answer(own, question, console)
        except UserError as error:
            console.print(f"error: {error}", style="red", markup=False, highlight=False)
            continue
        _export(trace, gif, svg, console)
        number += 1


def sampler_of(folder: Path, changes: Mapping[str, Any]) -> SamplerConfig:
    """How to decode with the policy in `folder`, by its own settings (`training.policy_settings`), then `changes`.

    If only the canvas is changed, the steps change in proportion.
    """
    base = from_dict(SamplerConfig, settings_tree(folder).get("sampler") or {})
    chosen = {name: value for name, value in changes.items() if value is not None}
    if "completion_length" in chosen and "steps" not in chosen:
        chosen["steps"] = max(1, base.steps * chosen["completion_length"] // base.completion_length)
    sampler = base.replace(**chosen)
    sampler.warn()
    return sampler


def show_answer(sampling: Sampling, question: str, console: Console) -> Trace:
    """Decode an answer, live in a terminal, and print it; the code of a fenced answer is highlighted."""
    policy, config, end = sampling.policy, sampling.config, sampling.policy.token_ids.end
    prompt = sampling.tokenizer.chat_prompt(question)
    started = time.perf_counter()
    if console.is_terminal:
        view = LiveView(sampling)
        with Live(console=console, refresh_per_second=30, transient=True) as live:

            def frame(step: int, rows: Sequence[int], tokens_1C: np.ndarray) -> None:
                live.update(view.frame(step, tokens_1C[0]), refresh=True)
                time.sleep(FRAME_SECONDS)

            (completion,) = sample(policy, [prompt], config, [sampling.seed], trace=frame)
        console.print(view.frame(config.steps - 1, completion.tokens))
    else:
        (completion,) = sample(policy, [prompt], config, [sampling.seed])
    _print_answer(completion_text(sampling.tokenizer, completion.tokens.tolist(), end), console)
    if console.is_terminal:
        seconds = time.perf_counter() - started
        console.print(f"{len(completion.tokens)} tokens, {config.steps} steps, {seconds:.1f} s", style="dim")
    shown = answer_pieces(completion.tokens.tolist(), end, sampling.tokenizer)
    return Trace(question, tuple(shown), tuple(completion.reveal_step[: len(shown)].tolist()), config.steps)


class LiveView:
    """The canvas while it is denoised: each token keeps the colour of the step that revealed it."""

    def __init__(self, sampling: Sampling) -> None:
        self.ids, self.tokenizer = sampling.policy.token_ids, sampling.tokenizer
        self.steps = sampling.config.steps
        self.step_C = np.full(sampling.config.completion_length, -1)

    def frame(self, step: int, tokens_C: np.ndarray) -> Panel:
        """The canvas after `step`; `tokens_C` has MASK where nothing is revealed yet."""
        revealed_C = np.asarray(tokens_C) != self.ids.mask
        self.step_C[revealed_C & (self.step_C < 0)] = step
        body = Text()
        for token, own in zip(tokens_C.tolist(), self.step_C.tolist()):
            if own < 0:
                body.append(MASKED, style="dim")
            else:
                body.append(self._piece(token), style=step_colour(own, self.steps))
        title = f"step {step + 1} of {self.steps}, {int(revealed_C.sum())} of {len(tokens_C)} tokens"
        return Panel(body, title=title, title_align="left", border_style="dim")

    def _piece(self, token: int) -> str:
        if token in self.ids.end:
            return END
        if token in (self.ids.filler, self.ids.pad):
            return "·"
        return self.tokenizer.decode([token], skip_special=False)


def _print_answer(text: str, console: Console) -> None:
    if not console.is_terminal:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    elif ANY_FENCE.search(text):
        code = program_of_answer(text, Problem("sample", ""))
        console.print(Syntax(code.rstrip(), "python", background_color="default", word_wrap=True))
    else:
        console.print(text, markup=False)


def _ask(read: Callable[[str], str]) -> str | None:
    try:
        question = read("\nprompt> ").strip()
    except EOFError:
        return None
    return question if question and question not in QUIT else None


def _export(trace: Trace, gif: Path | None, svg: Path | None, console: Console) -> None:
    for path, write in ((gif, write_gif), (svg, write_svg)):
        if path is not None:
            with writing(path):
                write(trace, path)
            if console.is_terminal:
                console.print(f"trace written to {path}", style="dim", highlight=False)
