"""What runs in a judge: the problem set's own test code, on plain data, in a process the candidate never enters.

Names the tests leave undefined are functions of the candidate: calling one sends its arguments to the worker, which has
the candidate's process compute the value. So loops, tolerances, `try`/`except` and random inputs are judged outside the
candidate, and the candidate never holds what it is compared with.
"""

import enum
import importlib
import sys
import types

from couplet.reward.sandbox import notes, pytest_part
from couplet.reward.sandbox.child import answer
from couplet.reward.sandbox.plain import MAX_STANDARD, BadReply, Decoder, Encoder, NotPlain, TooLarge
from couplet.reward.sandbox.standard import Member, Record

LIMIT = 16 << 20


class Unjudgeable(BaseException):
    """The test gives the candidate something that has no plain form, or does more with its functions than call them."""


class CandidateError(Exception):
    """The candidate raised an exception that is not of the standard library."""


class Ended(RuntimeError):
    """The candidate raised what would end an iteration of the test's, as PEP 479 has it for generators."""


def refuse(self, *_):
    """What a function of the candidate answers to all but a call."""
    self._judge.lost = True
    raise Unjudgeable(self.__name__)


class Remote:
    """A function of the candidate, called through the worker."""

    def __init__(self, judge, token, name) -> None:
        self._judge, self._token, self.__name__ = judge, token, name

    def __call__(self, *args, **kwargs):
        known: list = []
        try:
            tree = Encoder(LIMIT, exact=True, known=known).encode((args, kwargs))
        except (NotPlain, TooLarge):
            refuse(self)
        self._judge.channel.send({"n": self._token, "call": [self.__name__, tree]})
        reply = self._judge.channel.receive()
        if reply is None:
            raise SystemExit
        if "x" in reply:
            name, nearest = reply["x"]
            raise rebuilt([name, f"builtins:{nearest}"], "raised by the candidate", (), {})
        return self._result(reply["v"], known)

    def _result(self, reply, known):
        """The value, or the exception, with the arguments made what the call left of them."""
        try:
            outcome = decoded(reply, known, self._judge)
            match outcome:
                case ("value", value, str(kind)):
                    return FINISHED[kind](value) if kind in FINISHED else value
                case ("raised", list(kinds), str(text), tuple(details), dict(attributes)):
                    raise rebuilt(kinds, text, details, attributes)
        except BadReply:
            pass
        self._judge.broken = True
        raise Unjudgeable("no answer to a call")

    __getattr__ = __getitem__ = __setitem__ = __contains__ = __iter__ = __len__ = __bool__ = __index__ = refuse
    __int__ = __float__ = __abs__ = __neg__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __str__ = __repr__ = __format__ = refuse
    __instancecheck__ = __subclasscheck__ = __mro_entries__ = refuse
    __hash__ = object.__hash__


TAGS: dict[type, str] = {list: "l", dict: "d", set: "s", bytearray: "y"}


def decoded(reply, known, judge):
    """The outcome of a call; the containers in `known`, its arguments', get the contents that the call left.

    Values of classes that the test defines are replaced. Raises `BadReply`.
    """
    if type(reply) is not list or len(reply) != 2:
        raise BadReply("no outcome")
    arguments = list(known)
    decoder = Decoder(known)
    outcome, states = decoder.decode(reply[0]), reply[1]
    judge.nan |= decoder.nan
    if decoder.standard < MAX_STANDARD:
        outcome = judge.trusted(outcome)
    if states is None:
        return outcome
    if type(states) is not list or len(states) != len(arguments):
        raise BadReply("other arguments")
    left = []
    for old, state in zip(arguments, states):
        if type(state) is not list or len(state) != 2 or state[0] != TAGS[type(old)]:
            raise BadReply("other kinds of arguments")
        try:
            left.append(decoder.filled(state[0], type(old)(), state[1]))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BadReply(str(error)[:200]) from None
    for old, new in zip(arguments, left):
        if isinstance(old, (list, bytearray)):
            old[:] = new
        else:
            old.clear()
            old.update(new)
    return outcome


async def done(value):
    return value


def yielded(items, complete):
    yield from items
    if not complete:
        raise CandidateError("an iterator of more items than can be sent")


FINISHED = {"coroutine": done, "iterator": lambda parts: yielded(*parts)}
# Modules whose exceptions a candidate may raise: those of a test framework would tell it to stop or to skip the test.
RAISABLE = sys.stdlib_module_names - {"unittest", "doctest"}
UNICODE = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def rebuilt(kinds, text, details, attributes) -> Exception:
    """The candidate's exception, of the nearest class of the standard library that this process has loaded."""
    found = next(filter(None, map(standard_exception, kinds)), CandidateError)
    if issubclass(found, (StopIteration, StopAsyncIteration)) or (issubclass(found, LookupError) and indexing()):
        found, kinds = Ended, [f"{__name__}:Ended"]
    name = str(kinds[0]).rpartition(":")[2].rpartition(".")[2] if kinds else found.__name__
    error = made(found, details, attributes)
    if (name, text) == (found.__name__, str(error)):
        return error
    return made(type(name, (found,), {"__str__": lambda self: text}), details, attributes)


def indexing() -> bool:
    """Whether the test calls the candidate from a `__getitem__`, by which an IndexError would end an iteration."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name not in ("__getitem__", "__missing__"):
        frame = frame.f_back
    return frame is not None


def made(kind, details, attributes) -> Exception:
    """An exception with these arguments. Those of Unicode errors must fit their text: the interpreter trusts them."""
    try:
        if issubclass(kind, UNICODE):
            *_, source, start, end, _ = details
            if not 0 <= start <= end <= len(source):
                raise ValueError("positions")
        error = kind(*details)
    except Exception:
        kind = next(base for base in kind.__mro__ if base not in UNICODE and not issubclass(base, UNICODE))
        error = kind.__new__(kind)
    error.args = details
    vars(error).update(attributes)
    return error


def standard_exception(path):
    """The exception class ``module:name``, or None for one that is not of the standard library or not in use here."""
    module, _, name = str(path).partition(":")
    found = sys.modules.get(module) if module.partition(".")[0] in RAISABLE else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


class Judge:
    """Runs trusted test code; one per program, so that tests of two programs share nothing."""

    def __init__(self, channel) -> None:
        self.channel = channel
        self.scope: dict = {}
        self.lost = False  # the test at hand cannot be judged here
        self.broken = False  # the candidate's answer was none
        self.nan = False  # a value of the candidate's holds a NaN

    def enter(self, token, setup, modules, names):
        """A fresh namespace: the trusted prelude, modules the tests use unimported, the candidate's functions."""
        scope = self.scope = types.ModuleType("tests").__dict__
        sys.modules["tests"] = types.ModuleType("tests")
        for entry in modules:
            module, _, name = entry.partition(":")
            found = importlib.import_module(module)
            scope[name or module] = getattr(found, name) if name else found
        if setup:
            pytest_part.offer(setup)
            exec(compile(setup, "<trusted>", "exec", dont_inherit=True), scope)
        scope.update({name: Remote(self, token, name) for name in names})
        return scope

    def trusted(self, value):
        """A value of the candidate's with enumerations and dataclasses that the trusted code defines in their place."""
        if isinstance(value, list):
            value[:] = map(self.trusted, value)
        elif type(value) is tuple:
            return tuple(map(self.trusted, value))
        elif type(value) is dict:
            value.update({key: self.trusted(part) for key, part in value.items()})
        elif isinstance(value, Member):
            kind = self.scope.get(value.kind)
            return getattr(kind, value.name, value) if isinstance(kind, enum.EnumMeta) else value
        elif isinstance(value, Record):
            fields = {name: self.trusted(part) for name, part in vars(value).items() if name}
            kind = self.scope.get(vars(value)[""])
            if isinstance(kind, type) and getattr(kind, "__dataclass_fields__", {}).keys() == fields.keys():
                made: object = object.__new__(kind)
                for name, part in fields.items():
                    object.__setattr__(made, name, part)
                return made
        return value

    def value(self, token, setup, modules, expression):
        """A trusted value, for comparison in the worker."""
        scope = self.enter(token, setup, modules, ())
        value = eval(compile(expression, "<expected>", "eval", dont_inherit=True), scope)
        return Encoder(LIMIT).encode(value)

    def imports(self, token, statements):
        """The first of these import statements that fails, and why; None."""
        for statement in statements:
            pytest_part.offer(statement)
            try:
                exec(compile(statement, "<imports>", "exec", dont_inherit=True), {})
            except Exception as error:
                return ["t", [statement, str(error)[:500]]]
        return None

    def check(self, token, source, arguments):
        """Whether ``check(input, expected, actual)`` of the problem set's checker accepts an answer."""
        scope = types.ModuleType("checker").__dict__
        exec(compile(source, "<checker>", "exec", dont_inherit=True), scope)
        return bool(scope["check"](*Decoder().decode(arguments)))

    def test(self, token, setup, modules, names, source):
        """How often a test has run which checks if it passes, else False; "skipped" by itself, "lost" if that cannot be
        decided here, "broken" if the candidate did not answer. Other exceptions are passed on.
        """
        self.lost = self.broken = self.nan = False
        notes.DONE.clear()
        pytest_part.offer(source)
        try:
            scope = self.enter(token, setup, modules, names)
        except Exception:
            return "lost"
        try:
            exec(compile(source, "<test>", "exec", dont_inherit=True), scope)
            passed = not self.nan or "nan" in f"{setup}{source}".lower()  # which no comparison would find wrong
        except pytest_part.Skipped:
            return "skipped"
        except AssertionError:
            passed = False
        except (Exception, Unjudgeable):
            if not (self.lost or self.broken):
                raise
            passed = False
        if self.broken or self.lost:
            return "broken" if self.broken else "lost"
        return Encoder(LIMIT).encode(notes.DONE) if passed else False


def serve_judge(channel) -> None:
    """Answer requests ``{"n", "op", "args"}``; calls of the candidate travel in between."""
    judge = Judge(channel)
    operations = {"value": judge.value, "test": judge.test, "imports": judge.imports, "check": judge.check}
    while (request := channel.receive()) is not None:
        work = operations[request["op"]]
        channel.send({"n": request["n"], **answer(lambda work=work, r=request: work(r["n"], *r["args"]))})
