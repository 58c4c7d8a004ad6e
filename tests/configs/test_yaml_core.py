"""Plain values of YAML 1.2, and keys that are given twice."""

import pytest
import yaml

from couplet.configs.yaml_core import read_yaml, write_yaml


@pytest.mark.parametrize(
    "text, value",
    [
        ("08", 8),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("-1", -1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -float("inf")),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("2026-11-27", "2026-11-27"),
        ("~", None),
        ("", None),
        ("TRUE", True),
        ("1\n", 1),
    ],
)
def test_a_plain_value(text, value):
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


def test_aliases_and_merge_keys_work():
    assert read_yaml("{a: &x {p: 1, q: 2}, b: {<<: *x, q: 3}, c: *x}")["b"] == {"p": 1, "q": 3}


def test_a_key_is_given_once():
    with pytest.raises(yaml.YAMLError, match="key 'a' is given twice"):
        read_yaml("{a: 1, b: {a: 1}, a: 2}")


def test_text_that_looks_like_a_value_survives_a_dump():
    for text in ("off", "1e-3", "010", "null", "2026-11-27", "1:30", ".inf", "0o7"):
        assert read_yaml(write_yaml({"key": text})) == yaml.safe_load(write_yaml({"key": text})) == {"key": text}
    for value in (1e-6, 1e20, 10, True, None, -float("inf")):
        assert read_yaml(write_yaml([value])) == yaml.safe_load(write_yaml([value])) == [value]
