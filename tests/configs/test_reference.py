"""docs/configuration.md is what configs/schema.py says, and says something of every key."""

from __future__ import annotations

from couplet.configs import reference
from couplet.configs.schema import AdaptConfig, RunConfig


def test_the_page_is_up_to_date():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run make docs"


def test_every_key_has_a_meaning():
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    names = {row.split("`")[1] for row in rows}
    for kind in (RunConfig, AdaptConfig):
        for name in kind.model_fields:
            section = kind.section_of(name)
            prefix = f"{name}.N" if name == "stages" else name
            keys = [f"{prefix}.{inner}" for inner in section.model_fields] if section else [name]
            assert names.issuperset(keys)


def test_check_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "PAGE", tmp_path / "configuration.md")
    assert reference.main(["--check"]) == 1 and not reference.PAGE.exists()
    assert reference.main([]) == 0 and reference.main(["--check"]) == 0
