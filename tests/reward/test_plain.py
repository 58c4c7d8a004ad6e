"""Plain values: what crosses the wall comes out as exact built-ins, and nothing else crosses."""

import collections
import decimal
import enum
import fractions
import json
import math

import pytest

from couplet.reward.sandbox.plain import BadReply, Encoder, NotPlain, TooLarge, decode, parse


def there_and_back(value):
    return decode(parse(json.dumps(Encoder(1 << 20).encode(value)).encode()))


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -7, 2**53, -(2**200), 0.1, -0.0, 1e308, math.inf, -math.inf, 1 + 2j, "", "é\ud800\x00", b"\x00\xff",
     bytearray(b"x"), [], [1, [2, (3,)]], (), ("a", 1.5), {1, 2}, frozenset({"x"}), {"a": [1], (1, 2): None}, {1: {2: {3}}}],
)  # fmt: skip
def test_plain_values_come_out_as_they_went_in(value):
    result = there_and_back(value)
    assert result == value and type(result) is type(value)


def test_nan_stays_nan():
    assert math.isnan(there_and_back(float("nan")))


class Colour(enum.IntEnum):
    RED = 7


class Sly(int):
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize(
    "value, plain",
    [
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, {1: [2]}), {1: [2]}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (Colour.RED, 7),
        (Sly(3), 3),
        (decimal.Decimal("0.5"), 0.5),
        (fractions.Fraction(1, 3), fractions.Fraction(1, 3)),
    ],
)
def test_subclasses_come_out_as_the_built_in_they_derive_from(value, plain):
    result = there_and_back(value)
    assert type(result) in (int, dict, tuple, fractions.Fraction)
    assert plain == result and not (type(result) is int and result == 4)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        iter([1]),
        collections.deque([1]),
        range(3),
        len,
        type,
        decimal.Decimal("nan"),
        decimal.Decimal("1e999999"),
    ],
)
def test_other_objects_have_no_plain_form(value):
    with pytest.raises(NotPlain):
        Encoder(1 << 20).encode([value])


def test_limits_of_size_depth_and_keys():
    loop: list = []
    loop.append(loop)
    for value in ("x" * 101, [0] * 60, 7**10_000, bytes(60), loop):
        with pytest.raises(TooLarge):
            Encoder(100).encode(value)
    with pytest.raises(TooLarge):
        Encoder(1 << 30).encode({"a": set(range(2_501)), "b": set(range(2_500))})
    assert len(there_and_back(set(range(5_000)))) == 5_000


@pytest.mark.parametrize(
    "tree",
    [["?", 1], ["l"], ["l", 1], ["l", [1], 2], [], [1], {}, {"a": 1}, ["i", 5], ["i", "zz"], ["f", "x"], ["b", "0"], ["d", [1]],
     ["s", [["l", []]]], ["q", "0x1", "0x0"], ["c", "1"], ["d", [["l", []], 1]], ["s", list(range(5001))]],
)  # fmt: skip
def test_nothing_but_encodings_is_decoded(tree):
    with pytest.raises(BadReply):
        decode(tree)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"[" * 200_000, b"\xff", b"1" * 5_000, b'{"a": Infinity}'])
def test_nothing_but_json_is_parsed(body):
    with pytest.raises(BadReply):
        parse(body)


def test_deep_trees_are_refused():
    tree: list = ["l", []]
    for _ in range(200):
        tree = ["l", [tree]]
    with pytest.raises(BadReply):
        decode(tree)
