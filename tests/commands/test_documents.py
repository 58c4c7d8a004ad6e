"""What the documents tell to type can be typed: options, recipes and keys exist, and so does what is linked to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from couplet.commands.cli import COMMANDS, parse
from couplet.configs.load import load
from couplet.configs.schema import AdaptConfig, RunConfig
from couplet.studies import ablations, path
from couplet.studies import variance as variance_study

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
STUDIES = {
    "couplet.studies.ablations": ablations,
    "couplet.studies.path": path,
    "couplet.studies.variance": variance_study,
}
EXAMPLES = ("my.yaml", "my_stages.yaml", "adapt.yaml", "CONFIG", "RECIPE")  # recipes a reader would write


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command that starts this project's Python, also behind another command or a variable."""
    for page in PAGES:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M):
            lines = block.replace("\\\n", " ").splitlines() if language in ("", "sh") else []
            for line in lines:
                found = re.search(r"(?:^|\s)python (launch\.py|-m (?:couplet\.studies|benchmarks)\.\w+)(.*)", line)
                if found and "[" not in line:
                    yield page.name, shlex.split(found[1] + found[2], comments=True)


@pytest.mark.parametrize(
    ("page", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else value[1]
)
def test_a_command_can_be_typed(page, words):
    if words[0] == "-m":
        if words[1] in STUDIES:
            STUDIES[words[1]].parser().parse_intermixed_args(words[2:])
        return
    args = parse(words[1:])
    kind = {"train": RunConfig, "adapt": AdaptConfig}.get(args.command)
    recipe = getattr(args, "config", None)
    if kind is not None and recipe not in EXAMPLES:
        load(kind, recipe, args.overrides)
    elif kind is None and hasattr(args, "overrides"):
        load(RunConfig, recipe or "tiny.yaml", args.overrides)


def test_there_are_commands_of_every_kind():
    found = {words[1] for _, words in commands() if words[0] == "launch.py"}
    assert found >= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page if not file else page.parent / file
        assert linked.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


def test_the_dry_run_says_what_the_recipes_page_quotes():
    from couplet.commands.dry_run import describe

    said = describe(load(RunConfig, "diffucoder_7b.yaml"))
    quoted = re.findall(
        r"^(?:memory per|work per|simulated at|700 steps).*$", (ROOT / "docs" / "recipes.md").read_text(), re.M
    )
    assert len(quoted) == 5 and all(part in said for line in quoted for part in line.split("…"))
