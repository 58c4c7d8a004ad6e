"""Plain Python values as tagged JSON: the only thing that crosses the wall of the sandbox.

Needs nothing but the standard library, so that it can be forked into a sandbox or shipped into a cloud one. None, bools,
strings, small ints and finite floats are themselves; everything else is ``[tag, ...]``. A subclass is sent as the
built-in it derives from, so no method of the candidate's ever runs outside. Never pickle, never marshal.
"""

import json
import math
from collections.abc import Callable

MAX_DEPTH = 100
MAX_KEYED = 5_000  # elements of all sets and dicts of one value
MAX_COMPARED = 2_000_000  # small values compared where keys of sets and dicts have equal hashes: quadratic in such keys
MAX_RATIOS, RATIO_BITS = (
    10_000,
    1 << 14,
)  # fractions of one value, bits of each side: they are reduced, hashed and compared
RATIO_COST = 40  # small values that can be compared while two fractions are
MAX_DECIMAL = 4_000  # digits before the point, and behind it
SMALL = 2**53


class TooLarge(Exception):
    """The value exceeds a limit of the reply."""


class NotPlain(Exception):
    """The value has no plain form; the message is the name of its type."""


class BadReply(Exception):
    """The bytes are no encoding of a plain value."""


class Encoder:
    """Encodes one value; `limit` bounds its size in bytes of JSON, roughly."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.keyed = MAX_KEYED
        self.ratios = MAX_RATIOS

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge

    def encode(self, value, depth=0):
        """The JSON tree of `value`. Raises `TooLarge` or `NotPlain`."""
        if depth > MAX_DEPTH:
            raise TooLarge
        kind = type(value)
        self.spend(4)
        if value is None or kind is bool:
            return value
        if isinstance(value, str):
            self.spend(str.__len__(value))
            return str.__str__(value)
        if isinstance(value, int):
            return self.integer(int.__int__(value))
        if isinstance(value, float):
            self.spend(16)
            number = float.__float__(value)
            return number if math.isfinite(number) else ["f", repr(number)]
        return self.compound(value, depth)

    def integer(self, number):
        if -SMALL < number < SMALL:
            self.spend(12)
            return number
        self.spend(number.bit_length() // 4)
        return ["i", hex(number)]

    def compound(self, value, depth):
        for kind, tag in ((list, "l"), (tuple, "t"), (dict, "d"), (set, "s"), (frozenset, "z")):
            if isinstance(value, kind):
                return [tag, self.items(value, kind, depth)]
        if isinstance(value, (bytes, bytearray)):
            self.spend(2 * len(value))
            return ["b" if isinstance(value, bytes) else "y", bytes(value).hex()]
        if isinstance(value, complex):
            return ["c", repr(value.real), repr(value.imag)]
        return self.foreign(value, depth)

    def items(self, value, kind, depth):
        size = kind.__len__(value)
        self.spend(size)
        if kind in (dict, set, frozenset):
            self.keyed -= size
            if self.keyed < 0:
                raise TooLarge
        if kind is dict:
            return [self.encode(part, depth + 1) for pair in dict.items(value) for part in pair]
        return [self.encode(item, depth + 1) for item in kind.__iter__(value)]

    def foreign(self, value, depth):
        """Numbers of the standard library and of numpy, which compare equal to built-in ones."""
        module, name = type(value).__module__, type(value).__name__
        if module == "builtins" and name in ("dict_keys", "dict_items"):  # they equal sets
            return ["s", self.items(set(value), set, depth)]
        if module == "numpy" and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
            return self.encode(value.item(), depth + 1)
        if (module, name) not in (("decimal", "Decimal"), ("fractions", "Fraction")):
            raise NotPlain(str(name)[:80])
        if name == "Decimal" and (not value.is_finite() or abs(value.adjusted()) > MAX_DECIMAL):
            raise NotPlain(name)
        ratio = make_fraction(value)
        bits = ratio.numerator.bit_length(), ratio.denominator.bit_length()
        self.ratios -= 1
        if self.ratios < 0 or max(bits) > RATIO_BITS:
            raise TooLarge
        self.spend(sum(bits) // 4)
        return ["q", hex(ratio.numerator), hex(ratio.denominator)]


def make_fraction(*parts):
    """A Fraction; few programs need the module, and importing it would burden them all."""
    from fractions import Fraction

    return Fraction(*parts)


def read_fraction(top, bottom):
    if max(len(top), len(bottom)) > RATIO_BITS // 4 + 3:  # digits, sign and prefix
        raise ValueError("digits")
    return make_fraction(int(top, 16), int(bottom, 16))


SCALARS: dict[str, tuple[int, Callable]] = {
    "f": (1, float),
    "i": (1, lambda text: int(text, 16)),
    "b": (1, bytes.fromhex),
    "y": (1, bytearray.fromhex),
    "c": (2, lambda real, imag: complex(float(real), float(imag))),
    "q": (2, read_fraction),
}
CONTAINERS: dict[str, Callable] = {"l": list, "t": tuple, "s": set, "z": frozenset, "d": dict}


class Decoder:
    """Decodes one value into exact built-ins, within the same limits as the encoder, and at a bounded cost."""

    def __init__(self) -> None:
        self.keyed = MAX_KEYED
        self.ratios = MAX_RATIOS
        self.compared = MAX_COMPARED
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
            if tag in CONTAINERS and len(parts) == 1 and type(parts[0]) is list:
                return self.container(tag, parts[0], depth)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
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
        return build(*parts)

    def container(self, tag, items, depth):
        if tag in ("l", "t") or not items:
            return CONTAINERS[tag]([self.decode(item, depth + 1) for item in items])
        stride = 2 if tag == "d" else 1
        self.keyed -= len(items) // stride
        if self.keyed < 0 or len(items) % stride:
            raise BadReply("too many keys")
        values, weights = [], []
        for item in items:
            before = self.weight
            values.append(self.decode(item, depth + 1))
            weights.append(self.weight - before)
        self.compare(values[::stride], weights[::stride])
        return dict(zip(values[::2], values[1::2])) if tag == "d" else CONTAINERS[tag](values)

    def compare(self, keys, weights):
        """Account for the comparisons that keys with equal hashes cause. Raises `BadReply` where they are too many."""
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


def _no_constant(name):
    raise BadReply(name)


_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def parse(body: bytes):
    """The JSON tree of `body`. Raises `BadReply` for anything that is not one, deep nesting included."""
    try:
        return _STRICT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadReply(type(error).__name__) from None
