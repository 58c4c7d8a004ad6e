"""Words this project avoids, each with the plain one: `python -m tests.glossary [FOLDER ...]` lists where they are left.

It reads Python (names included), Markdown, YAML, TOML and templates. `--count` prints one total per word.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from couplet import PACKAGES, ROOT

FOLDERS = (*PACKAGES, "benchmarks", "couplet", "deploy", "docs", "tests")  # and the files of the top level
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".jinja", ".j2", ".css", ".sh"}
OWN_FILES = {"tests/glossary.py", "tests/test_prose.py"}  # these name the words

# A blank is any run of blanks, underscores and line ends; `readTwice` counts as two words.
PLAIN = {
    r"mend(s|ed|ing)?": "fix, hint, remedy",
    r"told": "reported, given, distinguished",
    r"pass(es|ed|ing) over(?! (the|a|all|them|it|every)\b)": "skip",
    r"anew": "again, rebuilt",
    r"look(s|ed|ing)? after": "supervise, reconcile, check",
    r"tend(s|ed|ing)?(?! to\b)": "supervise, reconcile",
    r"(go|goes|going|gone|went) on": "resume, continue",
    r"(?<!backwards and )forwards(?! (the|its|a|an|every|all|what|signals|requests|attributes)\b)": "forward passes",
    r"excus(e|es|ed|ing)": "extend, extension",
    r"patien(t|ce|tly)": "time limit",
    r"grant(s|ed|ing)?": "extend, allow",
    r"payers?": "account",
    r"wirings?": "implementations",
    r"(?<!no )(?<!leave )(?<!leaves )rooms?(?! (for|to|on|in|left)\b)": "package; space, placement group",
    r"aside": "to a temporary path",
    r"(stands?|stood|standing)(?![ -](for|still|in|ins)\b)": "is, lives, is defined",
    r"stands? in the": "replaces, is in",
    r"no place for": "does not expect, rejects",
    r"silent": "zero-signal; unresponsive",
    r"(weights|problems?|prompts?|set|folder|data) prints?": "fingerprint",
    r"prints? of": "fingerprint of",
    r"(?<!there )(is|are) no(?! (longer|more|less|fewer|greater|later)\b)": "is not a",
}
PATTERNS = {word: re.compile(rf"(?<!\w){word}(?!\w)".replace(" ", r"\s"), re.IGNORECASE) for word in PLAIN}

# Where such a word is the right one: path, phrase, reason.
EXCEPTIONS = (
    ("*learner/*", "patience", "early stopping's own term"),
    ("*configs/*", "patience", "the key of early stopping"),
    ("docs/configuration.md", "patience", "the key of early stopping"),
    ("commands/*", '"problem_print"', "a key of stored facts; another name would refuse older results"),
    ("commands/*", '"prompt_print"', "likewise"),
    ("*studies/*variance*", '"forwards', "a key of variance.json and a column of variance.parquet"),
    ("*studies/*variance*", "['forwards']", "a key of variance.json"),
)


def files() -> Iterator[Path]:
    """Every file to read."""
    found = [*Path(ROOT).glob("*"), *(path for folder in FOLDERS for path in Path(ROOT, folder).rglob("*"))]
    for path in sorted(found):
        if path.is_file() and (path.suffix in SUFFIXES or path.name == "Makefile"):
            yield path


def within(name: str, folders: Sequence[str]) -> bool:
    return any(name == folder or name.startswith(folder + "/") for folder in folders)


def findings(name: str, text: str) -> list[tuple[int, str, str]]:
    """Line, phrase and pattern (a key of `PLAIN`) of each avoided word in a text."""
    for path, phrase, _ in EXCEPTIONS:
        if fnmatch(name, path):
            text = text.replace(phrase, "")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ")
    text = re.sub(r"[ \t]*\n[ \t]*(# ?)?", "\n", re.sub(r"[ \t]+", " ", text))  # a phrase may cross the end of a line
    return sorted(
        (text.count("\n", 0, found.start()) + 1, found[0].replace("\n", " "), word)
        for word, pattern in PATTERNS.items()
        for found in pattern.finditer(text)
    )


def places(folders: Sequence[str] = ()) -> list[tuple[str, int, str, str]]:
    """Path, line, phrase and pattern of each avoided word in the folders (none: everywhere)."""
    names = {path.relative_to(ROOT).as_posix(): path for path in files()}
    return [
        (name, *finding)
        for name, path in names.items()
        if name not in OWN_FILES and (not folders or within(name, folders))
        for finding in findings(name, path.read_text(encoding="utf-8"))
    ]


def main() -> None:
    """Print what is found; exit code 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m tests.glossary", description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", help="default: all")
    parser.add_argument("--count", action="store_true", help="one total per word instead of a line per place")
    args = parser.parse_args()
    found = places(args.folders)
    if args.count:
        for word, count in Counter(word for *_, word in found).most_common():
            print(f"{count:5} {word}")
        print(f"{len(found):5} in all")
    else:
        for name, line, phrase, word in found:
            print(f"{name}:{line}: {phrase!r}: {PLAIN[word]}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
