"""Classes of the standard library (and numpy's arrays) as plain parts, so that their values cross the wall at any depth.

Each class has two functions: one takes a value apart into plain values, the other builds a value from them. What is
built is of the standard library's own class, so no method of the candidate's runs outside. Modules that few programs
need are imported when a value is built: importing them earlier would make every fork dearer.
"""

import collections
import enum
import functools
import importlib
import re
import sys
from operator import itemgetter

MAX_DIGITS, MAX_EXPONENT = 5_000, 100_000  # of a Decimal
MAX_FIELDS = 100  # of a named tuple
NUMERIC = re.compile(r"[<>|=]?[biufcUS]\d{1,4}")  # types of array elements that lists of plain values can hold


class OutOfRange(Exception):
    """The value exceeds what can be sent."""


def of(path):
    """The class ``module.name``."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class Named(tuple):
    """A named tuple as received: a tuple whose fields are attributes."""

    __slots__ = ()
    _fields: tuple = ()

    def _asdict(self):
        return dict(zip(self._fields, self))


class Member:
    """A member of an enumeration as received. Equal to another of the same enumeration, name and value."""

    def __init__(self, kind, name, value) -> None:
        self.kind, self.name, self.value = kind, name, value

    def __eq__(self, other):
        return isinstance(other, Member) and vars(self) == vars(other)

    def __hash__(self):
        return hash((self.kind, self.name))


class Record:
    """An instance of a dataclass as received: its fields. Equal to another of the same class name and fields."""

    def __init__(self, kind, fields) -> None:
        vars(self).update(fields)
        vars(self)[""] = kind

    def __eq__(self, other):
        return isinstance(other, Record) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


@functools.lru_cache(maxsize=64)
def named_class(name, fields):
    if len(fields) > MAX_FIELDS or any(not field.isidentifier() or field[0] == "_" for field in fields):
        raise ValueError("no named tuple")
    members = {field: property(itemgetter(place)) for place, field in enumerate(fields)}
    return type(name, (Named,), {"__slots__": (), "_fields": fields, **members})


def named_tuple(name, fields, values):
    if len(fields) != len(values):
        raise ValueError("no named tuple")
    return named_class(name, tuple(fields))(values)


def decimal_text(value):
    if value.is_snan():
        raise OutOfRange
    if value.is_finite() and (abs(value.adjusted()) > MAX_EXPONENT or len(value.as_tuple().digits) > MAX_DIGITS):
        raise OutOfRange
    return [str(value)]


def decimal_of(text):
    if len(text) > MAX_DIGITS + 20:
        raise ValueError("digits")
    value = of("decimal.Decimal")(text)
    decimal_text(value)
    return value


def array_of(kind, items):
    """A numpy array, in a process that has numpy for its programs; elsewhere its items."""
    numpy = sys.modules.get("numpy") if "couplet.reward.sandbox.zygote" in sys.modules else None
    return items if numpy is None or not NUMERIC.fullmatch(kind) else numpy.array(items, kind)


def built(path):
    """What builds a class of a module that few programs need."""
    return lambda *parts: of(path)(*parts)


def made_of(build, *kinds):
    """`build` for parts of these kinds, the last of which holds for all further ones.

    Nothing else may be given to what iterates over it: a reply of a few bytes can describe a range of any length.
    """

    def checked(*parts):
        for place, part in enumerate(parts):
            if not isinstance(part, kinds[min(place, len(kinds) - 1)]):
                raise TypeError("wrong kind of part")
        return build(*parts)

    return checked


def from_text(path):
    return lambda text: of(path).fromisoformat(text)


FACTORIES = {kind.__name__: kind for kind in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)}
# fmt: off
APART = {
    "builtins.range": lambda v: [v.start, v.stop, v.step],
    "builtins.slice": lambda v: [v.start, v.stop, v.step],
    "builtins.memoryview": lambda v: [v.tobytes()],
    "builtins.dict_items": lambda v: [dict(v)],
    "builtins.dict_keys": lambda v: [dict.fromkeys(v)],
    "builtins.dict_values": lambda v: [list(v)],
    "builtins.mappingproxy": lambda v: [dict(v)],
    "collections.ChainMap": lambda v: list(map(dict, v.maps)),
    "collections.Counter": lambda v: [dict(dict.items(v))],
    "collections.OrderedDict": lambda v: [dict(v.items())],
    "collections.defaultdict": lambda v: [dict(dict.items(v)), getattr(v.default_factory, "__name__", None)],
    "collections.deque": lambda v: [list(v), v.maxlen],
    "array.array": lambda v: [v.typecode, v.tolist()],
    "datetime.date": lambda v: [v.isoformat()],
    "datetime.datetime": lambda v: [v.isoformat()],
    "datetime.time": lambda v: [v.isoformat()],
    "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
    "datetime.timezone": lambda v: [v.utcoffset(None)],
    "decimal.Decimal": decimal_text,
    "numpy.ndarray": lambda v: [v.dtype.str, v.tolist()],
    "pathlib.PosixPath": lambda v: [str(v)],
    "pathlib.PurePosixPath": lambda v: [str(v)],
    "uuid.UUID": lambda v: [str(v)],
}
TOGETHER = {
    "builtins.range": range,
    "builtins.slice": slice,
    "builtins.memoryview": made_of(memoryview, bytes),
    "builtins.dict_items": made_of(dict.items, dict),
    "builtins.dict_keys": made_of(dict.keys, dict),
    "builtins.dict_values": made_of(lambda items: dict(enumerate(items)).values(), list),
    "builtins.mappingproxy": made_of(dict, dict),
    "collections.ChainMap": made_of(collections.ChainMap, dict),
    "collections.Counter": made_of(collections.Counter, dict),
    "collections.OrderedDict": made_of(collections.OrderedDict, dict),
    "collections.defaultdict": made_of(
        lambda items, kind: collections.defaultdict(FACTORIES.get(kind), items), dict, (str, type(None))
    ),
    "collections.deque": made_of(collections.deque, list, (int, type(None))),
    "array.array": made_of(built("array.array"), str, list),
    "datetime.date": from_text("datetime.date"),
    "datetime.datetime": from_text("datetime.datetime"),
    "datetime.time": from_text("datetime.time"),
    "datetime.timedelta": built("datetime.timedelta"),
    "datetime.timezone": built("datetime.timezone"),
    "decimal.Decimal": decimal_of,
    "numpy.ndarray": made_of(array_of, str, (list, int, float, complex, str, bytes)),
    "pathlib.PosixPath": made_of(built("pathlib.PurePosixPath"), str),
    "pathlib.PurePosixPath": made_of(built("pathlib.PurePosixPath"), str),
    "uuid.UUID": made_of(built("uuid.UUID"), str),
    "enum": made_of(Member, str, (str, type(None)), object),
    "namedtuple": made_of(named_tuple, str, list),
    "dataclass": made_of(Record, str, dict),
}
# fmt: on


def apart(value):
    """(class, plain parts) of a value of one of these classes, or None. Raises `OutOfRange`."""
    kind = type(value)
    path = f"{kind.__module__}.{kind.__qualname__}"
    if path in APART:
        return path, APART[path](value)
    if kind.__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
        return "", value.item()
    if isinstance(value, tuple) and type(getattr(kind, "_fields", None)) is tuple:
        return "namedtuple", [kind.__name__, list(kind._fields), list(tuple.__iter__(value))]
    if type(getattr(kind, "__dataclass_fields__", None)) is dict:
        return "dataclass", [kind.__qualname__, {name: getattr(value, name) for name in kind.__dataclass_fields__}]
    if isinstance(value, enum.Enum) and not isinstance(value, (int, str)):
        return "enum", [kind.__qualname__, value.name, value.value]
    return None
