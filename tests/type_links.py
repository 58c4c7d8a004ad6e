"""`.types/couplet`: links to the packages, where type checkers and editors, which do not run code, find the namespace."""

from pathlib import Path

from couplet import PACKAGES, ROOT


def main() -> None:
    """Make the links; those of packages that are gone are removed."""
    folder = Path(ROOT, ".types", "couplet")
    folder.mkdir(parents=True, exist_ok=True)
    targets = {"__init__.py": "couplet/__init__.py"} | {package: package for package in PACKAGES}
    for link in folder.iterdir():
        link.unlink()
    for name, target in targets.items():
        (folder / name).symlink_to(Path("../..", target))


if __name__ == "__main__":
    main()
