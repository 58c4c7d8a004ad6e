"""Make `.types/couplet`, links to the packages for type checkers and editors, which cannot follow `__path__`."""

from pathlib import Path

from couplet import PACKAGES, ROOT


def main() -> None:
    """Replace the links by one to each package."""
    folder = Path(ROOT, ".types", "couplet")
    folder.mkdir(parents=True, exist_ok=True)
    targets = {"__init__.py": "couplet/__init__.py"} | {package: package for package in PACKAGES}
    for link in folder.iterdir():
        link.unlink()
    for name, target in targets.items():
        (folder / name).symlink_to(Path("../..", target))


if __name__ == "__main__":
    main()
