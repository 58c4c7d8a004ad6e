"""Plain values: what crosses the wall comes out as exact built-ins, and nothing else crosses."""

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math
import re
import uuid

import pytest

from couplet.reward.sandbox.child import Channel
from couplet.reward.sandbox.plain import BadReply, Decoder, Encoder, NotPlain, TooLarge, as_set, decode, parse


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
        (type("Mine", (dict,), {})(a=1), {"a": 1}),
        (type("Mine", (list,), {"__eq__": lambda self, other: True})([1]), [1]),
        (Colour.RED, 7),
        (Sly(3), 3),
    ],
)
def test_subclasses_come_out_as_the_built_in_they_derive_from(value, plain):
    result = there_and_back(value)
    assert type(result) is type(plain)
    assert plain == result and not (type(result) is int and result == 4)


@dataclasses.dataclass
class Item:
    name: str
    price: decimal.Decimal


class Suit(enum.Enum):
    HEART = "h"


STANDARD = [
    collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"),
    collections.defaultdict(list, {1: [2]}),
    collections.deque([1, 2], 5),
    collections.ChainMap({"a": 1}, {"b": 2}),
    decimal.Decimal("1.10"),
    decimal.Decimal("1E+5"),
    decimal.Decimal("-Infinity"),
    fractions.Fraction(1, 3),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.timezone(datetime.timedelta(hours=2))),
    datetime.time(1, 2),
    datetime.timedelta(-1, 5, 7),
    range(3, 9, 2),
    slice(1, None, 2),
    memoryview(b"ab"),
    {1: 2}.keys(),
    {1: 2}.items(),
    uuid.UUID(int=7),
    array.array("d", [0.5]),
]


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)))
def test_classes_of_the_standard_library_come_out_as_themselves_at_any_depth(value):
    for wrapped, unwrap in (
        (value, lambda v: v),
        ([(value, 1)], lambda v: v[0][0]),
        ({"k": [value]}, lambda v: v["k"][0]),
    ):
        result = unwrap(there_and_back(wrapped))
        assert result == value and type(result) is type(value) and str(result)[:9] == str(value)[:9]


def test_named_tuples_enumerations_and_dataclasses_come_out_by_field():
    point = there_and_back([collections.namedtuple("Point", "x y")(1, [2])])[0]
    assert point == (1, [2]) and (point.x, point.y) == (1, [2]) and type(point).__name__ == "Point"
    item = there_and_back((Item("a", decimal.Decimal("1.50")),))[0]
    assert (item.name, str(item.price)) == ("a", "1.50") and item == there_and_back(Item("a", decimal.Decimal("1.5")))
    assert item != there_and_back(Item("b", decimal.Decimal("1.50")))
    suit = there_and_back({"s": Suit.HEART})["s"]
    assert (suit.name, suit.value) == ("HEART", "h") and suit == there_and_back(Suit.HEART) and suit != "h"


@pytest.mark.parametrize("fields", [["__class__"], ["__eq__"], ["a b"], ["a", "b"], ["_asdict"]])
def test_no_field_of_a_named_tuple_replaces_a_method(fields):
    with pytest.raises(BadReply):
        decode(["@", "namedtuple", ["N", ["l", fields], ["l", [1]]]])


def test_shared_containers_are_shared_on_the_other_side():
    row = [0]
    known: list = []
    tree = json.loads(json.dumps(Encoder(1 << 20, known=known).encode(([row, row], {"row": row}))))
    board, named = Decoder([]).decode(tree)
    assert board[0] is board[1] is named["row"] and [id(c) for c in known].count(id(row)) == 1
    with pytest.raises(BadReply):
        Decoder([]).decode(["l", [["r", 9]]])
    with pytest.raises(BadReply):
        decode(["r", 0])


def test_what_is_sent_is_what_counts():
    def send(value, limit):
        sent = []
        channel = Channel(None, lambda data: sent.append(bytes(data)) or len(data))
        channel.send({"n": "1", "v": Encoder(limit).encode(value)}, limit)
        return b'"big"' not in sent[0]

    assert send(list(range(62_000)), 1 << 20) and send([0] * 500_000, 1 << 20)
    assert not send([123_456] * 200_000, 1 << 20)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        iter([1]),
        len,
        type,
    ],
)
def test_other_objects_have_no_plain_form(value):
    with pytest.raises(NotPlain):
        Encoder(1 << 20).encode([value])


def test_limits_of_size_depth_and_keys():
    loop: list = []
    loop.append(loop)
    for value in (
        "x" * 101,
        [0] * 60,
        7**10_000,
        bytes(60),
        loop,
        decimal.Decimal("1e999999"),
        decimal.Decimal("snan"),
    ):
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


ENDLESS = ["@", "builtins.range", [0, ["i", hex(10**12)], 1]]


@pytest.mark.parametrize(
    "path, parts",
    [
        ("builtins.dict_keys", [ENDLESS]),
        ("builtins.dict_values", [ENDLESS]),
        ("builtins.memoryview", [["i", hex(10**12)]]),
        ("collections.ChainMap", [["d", []], ENDLESS]),
        ("collections.Counter", [ENDLESS]),
        ("collections.deque", [ENDLESS, 1]),
        ("array.array", ["q", ENDLESS]),
        ("namedtuple", ["N", ENDLESS, ENDLESS]),
    ],
)
def test_a_short_tree_does_not_describe_a_collection_without_end(path, parts):
    with pytest.raises(BadReply):
        decode(["@", path, parts])


def test_a_set_is_not_made_of_a_range_without_end():
    assert as_set(range(3)) == {0, 1, 2}
    with pytest.raises(ValueError):
        as_set(range(10**12))


def test_deep_trees_are_refused():
    tree: list = ["l", []]
    for _ in range(200):
        tree = ["l", [tree]]
    with pytest.raises(BadReply):
        decode(tree)
