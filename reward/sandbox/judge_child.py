"""What runs in a judge: the problem set's own test code, on plain data, in a process the candidate never enters.

Names the tests leave undefined stand for functions of the candidate: calling one sends its arguments to the worker,
which has the candidate's process compute the value. So loops, tolerances, `try`/`except` and random inputs are judged
outside the candidate, and the candidate never holds what it is compared with.
"""

import collections
import importlib
import sys
import types

from couplet.reward.sandbox.child import PLAIN, answer
from couplet.reward.sandbox.plain import Encoder, NotPlain, TooLarge, decode

LIMIT = 16 << 20
MUTABLE = (list, dict, set, bytearray)


class Unjudgeable(BaseException):
    """The test gives the candidate something that has no plain form, or does more with its functions than call them."""


class CandidateError(Exception):
    """The candidate raised something that is no exception of the standard library."""


def refuse(self, *_):
    """What a function of the candidate answers to all but a call."""
    self._judge.lost = True
    raise Unjudgeable(self.__name__)


class Remote:
    """A function of the candidate, called through the worker."""

    def __init__(self, judge, token, name) -> None:
        self._judge, self._token, self.__name__ = judge, token, name

    def __call__(self, *args, **kwargs):
        given = [list(args), kwargs]
        if not is_exact(given):
            refuse(self)
        shared = is_shared([*args, *kwargs.values()])
        try:
            sent = [Encoder(LIMIT).encode(part) for part in given]
        except (NotPlain, TooLarge):
            refuse(self)
        self._judge.channel.send({"n": self._token, "call": [self.__name__, *sent]})
        reply = self._judge.channel.receive()
        if reply is None:
            raise SystemExit
        if "x" in reply:
            name, nearest = reply["x"]
            raise rebuilt([name, f"builtins:{nearest}"], "raised by the candidate", (), {})
        return self._result(decode(reply["v"]), args, kwargs, shared)

    def _result(self, reply, args, kwargs, shared):
        """The value, or the exception, with the arguments made what the call left of them."""
        match reply:
            case (tuple(outcome), list(after), dict(named)) if len(after) == len(args):
                pass
            case _:
                raise CandidateError("no answer to a call")
        if shared and [after, named] != [list(args), kwargs]:
            refuse(self)  # which of the names that hold the changed part see the change, cannot be told here
        for old, new in zip(args, after):
            write_back(old, new)
        for name in kwargs.keys() & named.keys():
            write_back(kwargs[name], named[name])
        match outcome:
            case ("value", value, str(kind)):
                return STAND_INS[kind](value) if kind in STAND_INS else value
            case ("raised", list(kinds), str(text), tuple(details), dict(attributes)):
                raise rebuilt(kinds, text, details, attributes)
        raise CandidateError("no answer to a call")

    __getattr__ = __getitem__ = __setitem__ = __contains__ = __iter__ = __len__ = __bool__ = __index__ = refuse
    __int__ = __float__ = __abs__ = __neg__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __str__ = __repr__ = __format__ = refuse
    __instancecheck__ = __subclasscheck__ = __mro_entries__ = refuse
    __hash__ = object.__hash__


def ordinary(name):
    """A class of a module that few tests need."""
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind)


def decimal_of(ratio):
    decimal = importlib.import_module("decimal")
    with decimal.localcontext() as context:
        context.prec = 50_000
        return decimal.Decimal(ratio.numerator) / decimal.Decimal(ratio.denominator)


async def done(value):
    return value


def yielded(items, complete):
    yield from items
    if not complete:
        raise CandidateError("an iterator of more items than can be sent")


FACTORIES = {kind.__name__: kind for kind in PLAIN}
# What a test is given for a value that has a plain form of another class: built here, so that no method of it is the
# candidate's. One that does not fit raises what a wrong value would.
STAND_INS = {
    "Counter": collections.Counter,
    "Decimal": decimal_of,
    "OrderedDict": collections.OrderedDict,
    "coroutine": done,
    "date": lambda text: ordinary("datetime:date").fromisoformat(text),
    "datetime": lambda text: ordinary("datetime:datetime").fromisoformat(text),
    "defaultdict": lambda parts: collections.defaultdict(FACTORIES.get(parts[1]), parts[0]),
    "deque": lambda parts: collections.deque(parts[0], parts[1]),
    "dict_items": lambda items: dict(items).items(),
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "iterator": lambda parts: yielded(*parts),
    "range": lambda parts: range(*parts),
    "time": lambda text: ordinary("datetime:time").fromisoformat(text),
    "timedelta": lambda parts: ordinary("datetime:timedelta")(*parts),
}


def is_exact(value) -> bool:
    """Whether the candidate would be given what the test gives: nothing but built-ins, no class derived from one."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return all(map(is_exact, value))
    if kind is dict:
        return all(map(is_exact, value)) and all(map(is_exact, value.values()))
    return kind in PLAIN or (kind.__module__, kind.__name__) == ("fractions", "Fraction")


def holders(container) -> list[int]:
    """References to each mutable container inside `container`, as seen from here."""
    counts = []
    for part in container.values() if isinstance(container, dict) else container:
        if type(part) in MUTABLE:
            counts.append(sys.getrefcount(part))
    return counts


ALONE = holders([[]])[0]  # for one that nothing else holds


def is_shared(arguments) -> bool:
    """Whether something mutable in the arguments is held elsewhere or twice, so that a change would be seen there."""
    whole = [id(value) for value in arguments if type(value) in MUTABLE]
    return len(set(whole)) < len(whole) or any(map(has_shared_part, arguments))


def has_shared_part(value) -> bool:
    if not isinstance(value, (list, tuple, dict)):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return any(count > ALONE for count in holders(value)) or any(map(has_shared_part, parts))


def rebuilt(kinds, text, details, attributes) -> Exception:
    """The candidate's exception, of the nearest class of the standard library that this process has loaded."""
    found = next(filter(None, map(standard_exception, kinds)), CandidateError)
    name = str(kinds[0]).rpartition(":")[2].rpartition(".")[2] if kinds else found.__name__
    error = made(found, details, attributes)
    if (name, text) == (found.__name__, str(error)):
        return error
    return made(type(name, (found,), {"__str__": lambda self: text}), details, attributes)


def made(kind, details, attributes) -> Exception:
    try:
        error = kind(*details)
    except Exception:
        error = kind.__new__(kind)
    error.args = details
    vars(error).update(attributes)
    return error


def standard_exception(path):
    """The exception class ``module:name``, or None for one that is not of the standard library or not in use here."""
    module, _, name = str(path).partition(":")
    found = sys.modules.get(module) if module.partition(".")[0] in sys.stdlib_module_names else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def write_back(old, new) -> None:
    """Make an argument what the candidate's call left of it."""
    if type(old) is not type(new) or old == new:
        return
    if isinstance(old, (list, bytearray)):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)


class Judge:
    """Runs trusted test code; one per program, so that tests of two programs share nothing."""

    def __init__(self, channel) -> None:
        self.channel = channel
        self.lost = False  # the test at hand cannot be judged here

    def scope(self, token, setup, modules, names):
        """A fresh namespace: the trusted prelude, modules the tests use unimported, the candidate's functions."""
        scope = types.ModuleType("tests").__dict__
        for entry in modules:
            module, _, name = entry.partition(":")
            found = importlib.import_module(module)
            scope[name or module] = getattr(found, name) if name else found
        if setup:
            exec(compile(setup, "<trusted>", "exec", dont_inherit=True), scope)
        scope.update({name: Remote(self, token, name) for name in names})
        return scope

    def value(self, token, setup, modules, expression):
        """A trusted value, for comparison in the worker."""
        return eval(compile(expression, "<expected>", "eval", dont_inherit=True), self.scope(token, setup, modules, ()))

    def test(self, token, setup, modules, names, source):
        """Whether the test passes; "weak" where that cannot be told from here. Its other exceptions travel on."""
        self.lost = False
        try:
            scope = self.scope(token, setup, modules, names)
        except Exception:
            return "weak"
        try:
            exec(compile(source, "<test>", "exec", dont_inherit=True), scope)
        except AssertionError:
            return "weak" if self.lost else False
        except (Exception, Unjudgeable):
            if self.lost:
                return "weak"
            raise
        return "weak" if self.lost else True


def serve_judge(channel) -> None:
    """Answer requests ``{"n", "op": "value" | "test", "args"}``; calls of the candidate travel in between."""
    judge = Judge(channel)
    while (request := channel.receive()) is not None:
        work = {"value": judge.value, "test": judge.test}[request["op"]]
        reply = answer(LIMIT, lambda work=work, request=request: work(request["n"], *request["args"]))
        channel.send({"n": request["n"], **reply})
