"""What runs inside the sandbox: load a program, evaluate expressions, answer with plain values.

Needs nothing but the standard library and `plain`. Nothing here is trusted: the program shares the process and may
patch all of it. The process only ever holds inputs, never an expected value, and what it says is a value that the
worker compares outside.

Frames are a 4-byte big-endian length and as many bytes of ASCII JSON. A request carries a token ``n`` that its answer
repeats; an answer holds exactly one of ``v`` (an encoded value), ``x`` ([exception class, nearest built-in class]),
``o`` (type of a value that is not plain), ``big`` (value too large) and ``quit`` (SystemExit).
"""

import json
import sys
import types

from couplet.reward.sandbox.plain import Encoder, NotPlain, TooLarge, decode

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)
VIEWS = ("dict_items", "dict_keys", "dict_values")
MOST_ITEMS = 1 << 18  # bytes, roughly, of what an iterator yields


def builtin_name(kind) -> str:
    """Name of the nearest built-in class of an exception class."""
    for base in kind.__mro__:
        if base.__module__ == "builtins":
            return str(base.__name__)
    return "Exception"


def answer(limit, work) -> dict:
    """The answer to a request done by `work()`, without its token; what `work` raises becomes part of the answer."""
    try:
        return {"v": Encoder(limit).encode(work())}
    except NotPlain as error:
        return {"o": str(error)}
    except TooLarge:
        return {"big": True}
    except SystemExit:
        return {"quit": True}
    except BaseException as error:
        kind = type(error)
        return {"x": [str(kind.__name__)[:80], builtin_name(kind)]}


def portable(value) -> tuple:
    """(plain form, kind) of a value whose class a judge may need to have again: see `judge_child.STAND_INS`."""
    kind = type(value)
    name = kind.__name__
    if kind in PLAIN:
        return value, ""
    if kind is range:
        return (value.start, value.stop, value.step), name
    if kind is types.CoroutineType:
        import asyncio

        return asyncio.run(value), name
    if kind.__module__ == "builtins" and name in VIEWS:
        return list(value), name
    if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
        return beginning(value), "iterator"
    if kind.__module__ == "collections" and name == "deque":
        return (list(value), value.maxlen), name
    if kind.__module__ == "collections" and name == "defaultdict":
        return (dict(value), getattr(value.default_factory, "__name__", None)), name
    if kind.__module__ == "datetime" and name in ("date", "datetime", "time", "timedelta"):
        return dated(value), name
    if kind.__module__ == "numpy" and name == "ndarray":
        return value.tolist(), ""
    return value, name if kind.__module__ in ("collections", "decimal") else ""


def beginning(iterator) -> tuple:
    """(what an iterator yields, as far as an answer can hold it; whether that is all)."""
    items: list = []
    encoder = Encoder(MOST_ITEMS)
    for item in iterator:
        try:
            encoder.encode(item)
        except TooLarge:
            return items, False
        items.append(item)
    return items, True


def dated(value):
    """A date or time as text; a difference as days, seconds and microseconds."""
    return value.isoformat() if hasattr(value, "isoformat") else (value.days, value.seconds, value.microseconds)


def raised(error) -> tuple:
    """``("raised", classes, text, args, attributes)`` of an exception: its classes by ``module:name`` from the most
    derived one on, and of the rest what is plain.
    """
    kinds = [f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__]
    args = tuple(value if is_plain(value) else str(value)[:1000] for value in error.args)
    attributes = {str(name): value for name, value in vars(error).items() if is_plain(value)}
    return "raised", kinds, str(error)[:10_000], args, attributes


def is_plain(value) -> bool:
    """Whether a part of an exception can travel."""
    try:
        Encoder(1 << 16).encode(value)
    except (NotPlain, TooLarge):
        return False
    return True


class Channel:
    """Frames over a pair of functions `read(size) -> bytes` and `write(data) -> int`."""

    def __init__(self, read, write) -> None:
        self.read, self.write = read, write
        self.arrived = bytearray()

    def receive(self):
        """The next request, or None at the end of the stream."""
        size = 4
        while len(self.arrived) < size or len(self.arrived) < (size := 4 + int.from_bytes(self.arrived[:4], "big")):
            data = self.read(1 << 16)
            if not data:
                return None
            self.arrived += data
        body = self.arrived[4:size]
        del self.arrived[:size]
        return json.loads(body)

    def send(self, message) -> None:
        body = json.dumps(message).encode("ascii")
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            data = data[self.write(data) :]


class Program:
    """A candidate program; its tests run in the module it makes."""

    def __init__(self) -> None:
        self.module = types.ModuleType("solution")

    def load(self, source, setup) -> None:
        """Run the program, then the problem's own setup. The module is not `__main__`: no main guard fires."""
        sys.modules["solution"] = self.module
        for text, name in ((source, "<program>"), (setup, "<setup>")):
            if text:
                exec(compile(text, name, "exec", dont_inherit=True), self.module.__dict__)

    def eval(self, expression):
        """The value of a test's expression."""
        return eval(compile(expression, "<test>", "eval", dont_inherit=True), self.module.__dict__)

    def exec(self, source) -> None:
        """Run a whole test here: its verdict could be forged, so it counts as weak."""
        exec(compile(source, "<test>", "exec", dont_inherit=True), dict(self.module.__dict__))

    def result(self, name, args, kwargs):
        """What a function returns."""
        return self.function(name)(*decode(args), **decode(kwargs))

    def call(self, name, args, kwargs):
        """(outcome, arguments afterwards, named ones afterwards) of a test's call, which sees its arguments change.

        The outcome is ``("value", plain form, kind)`` as `portable` makes it, or what `raised` tells.
        """
        function, args, kwargs = self.function(name), decode(args), decode(kwargs)
        try:
            return ("value", *portable(function(*args, **kwargs))), args, kwargs
        except Exception as error:
            return raised(error), args, kwargs

    def function(self, name):
        if name not in self.module.__dict__:
            raise NameError(name)
        return self.module.__dict__[name]


OPERATIONS = ("load", "eval", "exec", "call", "result")


def serve(channel, limit, program) -> None:
    """Answer requests ``{"n": token, "op": name, "args": [...]}`` until the stream ends."""
    while (request := channel.receive()) is not None:
        operation = getattr(program, request["op"]) if request["op"] in OPERATIONS else None
        if operation is not None:
            reply = answer(limit, lambda work=operation, args=request["args"]: work(*args))
            channel.send({"n": request["n"], **reply})
