"""What runs inside the sandbox: load a program, evaluate expressions, call functions, answer with plain values.

Needs nothing but the standard library and `plain`. Nothing here is trusted: the program shares the process and may
patch all of it. The process only ever holds inputs, never an expected value, and what it says is a value that the
worker compares outside.

Frames are a 4-byte big-endian length and as many bytes of ASCII JSON. A request carries a token ``n`` that its answer
repeats; an answer holds exactly one of ``v`` (an encoded value), ``x`` ([exception class, nearest built-in class]),
``o`` (type of a value that is not plain), ``big`` (value too large) and ``quit`` (SystemExit).
"""

import builtins
import json
import sys
import types

import couplet.reward.sandbox.suites  # noqa: F401 - tests of suites import it where no file can be read
from couplet.reward.sandbox import notes, pytest_part, stdio
from couplet.reward.sandbox.plain import Decoder, Encoder, NotPlain, TooLarge, decode, written

for name in ("exit", "quit"):  # which `site` would define
    vars(builtins).setdefault(name, sys.exit)

MOST_ITEMS = 1 << 18  # bytes, roughly, of what an iterator yields
FRAME = 256  # bytes of an answer beside its value


def builtin_name(kind) -> str:
    """Name of the nearest built-in class of an exception class."""
    for base in kind.__mro__:
        if base.__module__ == "builtins":
            return str(base.__name__)
    return "Exception"


def answer(work) -> dict:
    """The answer to a request, without its token: the tree that `work()` returns, or what it raises."""
    try:
        return {"v": work()}
    except NotPlain as error:
        return {"o": str(error)}
    except TooLarge:
        return {"big": True}
    except SystemExit:
        return {"quit": True}
    except BaseException as error:
        kind = type(error)
        return {"x": [str(kind.__name__)[:80], builtin_name(kind)]}


def finished(value):
    """(value, kind) of what a call returned: a coroutine is run, an iterator is read as far as an answer can hold it."""
    kind = type(value)
    if kind is types.CoroutineType:
        import asyncio

        return asyncio.run(value), "coroutine"
    if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
        return beginning(value), "iterator"
    return value, ""


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

    def send(self, message, limit=None) -> None:
        """Send a message; in place of one of more than `limit` bytes, that it is too large."""
        body = written(message)
        if limit is not None and len(body) > limit + FRAME:
            body = written({"n": message["n"], "big": True})
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            data = data[self.write(data) :]


class Program:
    """A candidate program; its tests run in the module it makes. `limit`: bytes of one answer."""

    def __init__(self, limit) -> None:
        self.module = types.ModuleType("solution")
        self.limit = limit
        self.factor = 1  # of the limit, for the answer at hand

    def load(self, source, setup):
        """Run the program, then the part of the problem's set-up that its tests name. The module is not `__main__`: no
        main guard fires.
        """
        sys.modules["solution"] = self.module
        for text, name in ((source, "<program>"), (setup, "<setup>")):
            if text:
                exec(compile(text, name, "exec", dont_inherit=True), self.module.__dict__)

    def eval(self, expression):
        """The value of a test's expression."""
        return self.encoded(eval(compile(expression, "<test>", "eval", dont_inherit=True), self.module.__dict__))

    def exec(self, source):
        """Run a whole test here, for how often it runs which checks: as this could be forged, it counts as weak."""
        notes.DONE.clear()
        pytest_part.offer(source)
        exec(compile(source, "<test>", "exec", dont_inherit=True), dict(self.module.__dict__))
        return self.encoded(notes.DONE)

    def truth(self, expression):
        """Whether the value of a test's expression counts as true."""
        return bool(eval(compile(expression, "<test>", "eval", dont_inherit=True), self.module.__dict__))

    def run(self, source, text):
        """(how it ended, output) of a whole program with `text` on its standard input."""
        return self.encoded(stdio.run(source, text, self.limit))

    def result(self, name, args, kwargs, factor=1):
        """What a function returns; the answer may be `factor` times as long as others."""
        self.factor = factor
        return self.encoded(self.function(name)(*decode(args), **decode(kwargs)))

    def encoded(self, value):
        return Encoder(self.factor * self.limit).encode(value)

    def call(self, name, arguments):
        """[outcome, contents afterwards of the arguments' containers] of a test's call, which sees its arguments change.

        The outcome is ``("value", value, kind)`` as `finished` makes it, or what `raised` says. The contents are None
        if nothing changed, else in the order in which the containers were met.
        """
        known: list = []
        args, kwargs = Decoder(known).decode(arguments)
        function = self.function(name)
        containers = list(known)
        try:
            outcome = ("value", *finished(function(*args, **kwargs)))
        except Exception as error:
            outcome = raised(error)
        encoder = Encoder(self.limit, known=known)
        tree = encoder.encode(outcome)
        if Encoder(sys.maxsize, known=[]).encode((args, kwargs)) == arguments:
            return [tree, None]
        return [tree, [encoder.contents(container) for container in containers]]

    def function(self, name):
        """The value of a name; of ``Solution().name``, in a new instance."""
        owner, _, method = name.rpartition("().")
        if owner:
            return getattr(self.function(owner)(), method)
        if name in self.module.__dict__:
            return self.module.__dict__[name]
        if "Solution" in self.module.__dict__:
            return getattr(self.module.__dict__["Solution"](), name)
        raise NameError(name)


OPERATIONS = ("load", "eval", "truth", "exec", "call", "result", "run")


def serve(channel, program) -> None:
    """Answer requests ``{"n": token, "op": name, "args": [...]}`` until the stream ends."""
    while (request := channel.receive()) is not None:
        operation = getattr(program, request["op"]) if request["op"] in OPERATIONS else None
        if operation is not None:
            reply = answer(lambda work=operation, args=request["args"]: work(*args))
            channel.send({"n": request["n"], **reply}, program.factor * program.limit)
