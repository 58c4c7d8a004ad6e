"""Plain Python values as tagged JSON: the only thing that crosses the wall of the sandbox.

Needs nothing but the standard library, so that it can be forked into a sandbox or shipped into a cloud one. None,
bools, strings, small ints and finite floats are themselves; everything else is ``[tag, ...]``. A subclass is sent as
the built-in it derives from, a class of `standard` as its parts, so no method of the candidate's ever runs outside.
Never pickle, never marshal.

The arguments of a call, and what the call leaves of them, may share lists, dicts, sets and byte arrays: there each one
is numbered as it is met, and ``["r", number]`` is one that was met before.
"""

import json
import math
from collections.abc import Callable

from couplet.reward.sandbox.standard import TOGETHER, OutOfRange, apart

MAX_DEPTH = 100
MAX_KEYED = 5_000  # elements of all sets and dicts of one value
MAX_COMPARED = 2_000_000  # small values compared if keys of sets and dicts have equal hashes: quadratic in such keys
MAX_RATIOS, RATIO_BITS = 10_000, 1 << 14  # fractions of one value, bits of each side: they are reduced and compared
RATIO_COST = 40  # small values that can be compared while two fractions, or values of `standard`, are
MAX_ELEMENTS = 1 << 20  # that the worker reads from one collection: a range may describe any number
MAX_STANDARD = 20_000  # values of `standard` in one value
SMALL = 2**53
BUILT_IN = (int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, complex, bool, type(None))


class TooLarge(Exception):
    """The value exceeds a limit of the reply."""


class NotPlain(Exception):
    """The value has no plain form; the message is the name of its type."""


class BadReply(Exception):
    """The bytes do not encode a plain value."""


class Encoder:
    """Encodes values.

    Args:
        limit: bytes of JSON that may be sent. Only a lower bound is counted here, to end early: the sender checks what
            it sends (see `written`).
        exact: refuse what would arrive as something else, such as an instance of a subclass.
        known: number containers (see the module); those listed have been met.
    """

    def __init__(self, limit: int, exact: bool = False, known=None) -> None:
        self.left = limit
        self.exact = exact
        self.keyed = MAX_KEYED
        self.ratios = MAX_RATIOS
        self.known = known
        self.numbers = {id(container): number for number, container in enumerate(known or ())}

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge

    def encode(self, value, depth=0):
        """The JSON tree of `value`. Raises `TooLarge` or `NotPlain`."""
        if depth > MAX_DEPTH:
            raise TooLarge
        kind = type(value)
        self.spend(2)  # a digit or a bracket, and a comma
        if value is None or kind is bool:
            return value
        if kind not in BUILT_IN and (found := self.standard(value, depth)) is not None:
            return found
        if isinstance(value, str):
            self.spend(str.__len__(value))
            return str.__str__(value)
        if isinstance(value, int):
            number = int.__int__(value)
            if -SMALL < number < SMALL:
                return number
            self.spend(number.bit_length() // 4)
            return ["i", hex(number)]
        if isinstance(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else ["f", repr(real)]
        return self.compound(value, depth)

    def compound(self, value, depth):
        if self.known is not None and isinstance(value, MUTABLE):
            if id(value) in self.numbers:
                return ["r", self.numbers[id(value)]]
            self.numbers[id(value)] = len(self.known)
            self.known.append(value)
        return self.contents(value, depth)

    def contents(self, value, depth=0):
        """The tree of a container, whether or not it has been met."""
        for kind, tag in ((list, "l"), (tuple, "t"), (dict, "d"), (set, "s"), (frozenset, "z")):
            if isinstance(value, kind):
                return [tag, self.items(value, kind, depth)]
        if isinstance(value, (bytes, bytearray)):
            self.spend(2 * len(value))
            return ["b" if isinstance(value, bytes) else "y", bytes(value).hex()]
        if isinstance(value, complex):
            return ["c", repr(value.real), repr(value.imag)]
        raise NotPlain(str(type(value).__name__)[:80])

    def items(self, value, kind, depth):
        if kind in (dict, set, frozenset):
            self.keyed -= kind.__len__(value)
            if self.keyed < 0:
                raise TooLarge
        if kind is dict:
            return [self.encode(part, depth + 1) for pair in dict.items(value) for part in pair]
        return [self.encode(item, depth + 1) for item in kind.__iter__(value)]

    def standard(self, value, depth):
        """The tree of a Fraction or of what `standard` takes apart; None for a subclass of a built-in.

        Raises `NotPlain` for a subclass that must not arrive as its base.
        """
        kind = type(value)
        if (kind.__module__, kind.__name__) == ("fractions", "Fraction"):
            return self.fraction(value)
        try:
            found = apart(value)
        except OutOfRange:
            raise TooLarge from None
        if found is None:
            if self.exact:
                raise NotPlain(str(kind.__name__)[:80])
            return None
        path, parts = found
        if not path:  # a number of numpy's
            if self.exact:
                raise NotPlain(str(kind.__name__)[:80])
            return self.encode(parts, depth + 1)
        self.spend(len(path))
        return ["@", path, [self.encode(part, depth + 1) for part in parts]]

    def fraction(self, value):
        bits = value.numerator.bit_length(), value.denominator.bit_length()
        self.ratios -= 1
        if self.ratios < 0 or max(bits) > RATIO_BITS:
            raise TooLarge
        self.spend(sum(bits) // 4)
        return ["q", hex(value.numerator), hex(value.denominator)]


MUTABLE = (list, dict, set, bytearray)


def written(message) -> bytes:
    """The bytes of a message."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def read_fraction(top, bottom):
    """A Fraction; few programs need the module, and importing it would burden them all."""
    if max(len(top), len(bottom)) > RATIO_BITS // 4 + 3:  # digits, sign and prefix
        raise ValueError("digits")
    from fractions import Fraction

    return Fraction(int(top, 16), int(bottom, 16))


SCALARS: dict[str, tuple[int, Callable]] = {
    "f": (1, float),
    "i": (1, lambda text: int(text, 16)),
    "b": (1, bytes.fromhex),
    "c": (2, lambda real, imag: complex(float(real), float(imag))),
    "q": (2, read_fraction),
}
CONTAINERS: dict[str, Callable] = {"l": list, "t": tuple, "s": set, "z": frozenset, "d": dict, "y": bytearray}


class Decoder:
    """Decodes values into built-ins and classes of `standard`, within the encoder's limits and at a bounded cost.

    `known`: containers that ``["r", number]`` stands for; those that are decoded are appended.
    """

    def __init__(self, known=None) -> None:
        self.known = known
        self.keyed = MAX_KEYED
        self.ratios = MAX_RATIOS
        self.standard = MAX_STANDARD
        self.compared = MAX_COMPARED
        self.nan = False  # whether what has been decoded holds one
        self.weight = 0  # of what has been decoded: what one comparison of it costs, in small values

    def decode(self, tree, depth=0):
        """The value of a JSON tree. Raises `BadReply` for anything the encoder does not write."""
        self.weight += 1
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        if type(tree) is not list or not tree or type(tree[0]) is not str or depth > MAX_DEPTH:
            raise BadReply("no tagged value")
        tag, parts = tree[0], tree[1:]
        try:
            if tag in SCALARS:
                return self.scalar(tag, parts)
            if tag in CONTAINERS and len(parts) == 1:
                return self.container(tag, parts[0], depth)
            if tag == "@" and len(parts) == 2 and type(parts[1]) is list:
                return self.build(parts[0], parts[1], depth)
            if tag == "r" and self.known is not None and len(parts) == 1 and type(parts[0]) is int and parts[0] >= 0:
                return self.known[parts[0]]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OutOfRange) as error:
            raise BadReply(str(error)[:200]) from None
        raise BadReply("unknown tag")

    def scalar(self, tag, parts):
        count, build = SCALARS[tag]
        if len(parts) != count or any(type(part) is not str for part in parts):
            raise BadReply("wrong parts")
        if tag == "q":
            self.weight += RATIO_COST
            self.ratios -= 1
            if self.ratios < 0:
                raise BadReply("too many fractions")
        self.nan |= "nan" in parts
        return build(*parts)

    def build(self, path, parts, depth):
        self.weight += RATIO_COST
        self.standard -= 1
        if self.standard < 0 or type(path) is not str:
            raise BadReply("too many objects")
        value = TOGETHER[path](*[self.decode(part, depth + 1) for part in parts])
        self.nan |= path == "decimal.Decimal" and value != value
        return value

    def container(self, tag, items, depth):
        made = CONTAINERS[tag]()
        if self.known is not None and isinstance(made, MUTABLE):
            self.known.append(made)
        return self.filled(tag, made, items, depth)

    def filled(self, tag, made, items, depth=0):
        """`made`, an empty container, with `items`; of an immutable kind, another one."""
        if tag == "y":
            made += bytes.fromhex(items)
            return made
        if type(items) is not list:
            raise BadReply("no items")
        if tag in ("l", "t"):
            values = [self.decode(item, depth + 1) for item in items]
            if tag == "t":
                return tuple(values)
            made += values
            return made
        keys, values = self.keys(items, 2 if tag == "d" else 1, depth)
        if tag == "z":
            return frozenset(keys)
        made.update(zip(keys, values) if tag == "d" else keys)
        return made

    def keys(self, items, stride, depth):
        """(keys, values) of the items of a dict (`stride` 2), or the elements of a set and nothing."""
        self.keyed -= len(items) // stride
        if self.keyed < 0 or len(items) % stride:
            raise BadReply("too many keys")
        values, weights = [], []
        for item in items:
            before = self.weight
            values.append(self.decode(item, depth + 1))
            weights.append(self.weight - before)
        self.compare(values[::stride], weights[::stride])
        return values[::stride], values[1::2] if stride == 2 else []

    def compare(self, keys, weights):
        """Account for the comparisons that keys with equal hashes cause. Raises `BadReply` if there are too many."""
        hashes = [hash(key) for key in keys]
        if len(set(hashes)) == len(hashes):
            return
        groups: dict[int, list[int]] = {}
        for number, weight in zip(hashes, weights):
            groups.setdefault(number, []).append(weight)
        cost = sum((len(group) - 1) * sum(group) // 2 for group in groups.values())
        self.weight += 2 * cost  # comparing the whole looks every key up again
        self.compared -= cost
        if self.compared < 0:
            raise BadReply("colliding keys")


def decode(tree):
    """The plain value of a JSON tree."""
    return Decoder().decode(tree)


def weight(value) -> int:
    """How many small values a hashable value holds."""
    return 1 + sum(map(weight, value)) if isinstance(value, (tuple, frozenset)) else 1


def as_set(values) -> set:
    """``set(values)`` at a bounded cost. Raises ValueError for too many values or ones that collide too often, TypeError
    as `set` does.
    """
    if len(values) > MAX_ELEMENTS:
        raise ValueError("too many values")
    try:
        Decoder().compare(values, list(map(weight, values)))
    except BadReply as error:
        raise ValueError(str(error)) from None
    return set(values)


def _no_constant(name):
    raise BadReply(name)


_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def parse(body: bytes):
    """The JSON tree of `body`. Raises `BadReply` for anything that is not one, deep nesting included."""
    try:
        return _STRICT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadReply(type(error).__name__) from None
