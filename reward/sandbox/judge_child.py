"""What runs in a judge: the problem set's own test code, on plain data, in a process the candidate never enters.

Names the tests leave undefined stand for functions of the candidate: calling one sends its arguments to the worker,
which has the candidate's process compute the value. So loops, tolerances, `try`/`except` and random inputs are judged
outside the candidate, and the candidate never holds what it is compared with.
"""

import builtins
import importlib
import types

from reward.sandbox.child import answer
from reward.sandbox.plain import BadReply, Encoder, NotPlain, TooLarge, decode

LIMIT = 16 << 20


class Unjudgeable(BaseException):
    """The test needs an object of the candidate's that has no plain form."""


class CandidateError(Exception):
    """The candidate raised something that is no built-in exception."""


class Remote:
    """A function of the candidate, called through the worker."""

    def __init__(self, channel, token, name) -> None:
        self._channel, self._token, self.__name__ = channel, token, name

    def __call__(self, *args, **kwargs):
        try:
            sent = [Encoder(LIMIT).encode(list(args)), Encoder(LIMIT).encode(kwargs)]
        except (NotPlain, TooLarge):
            raise Unjudgeable(self.__name__) from None
        self._channel.send({"n": self._token, "call": [self.__name__, *sent]})
        reply = self._channel.receive()
        if reply is None:
            raise SystemExit
        return self._result(reply, args)

    def _result(self, reply, args):
        if "x" in reply:
            kind = getattr(builtins, reply["x"][1], CandidateError)
            raise (kind if issubclass(kind, Exception) else CandidateError)("raised by the candidate")
        if "v" not in reply:
            raise Unjudgeable(self.__name__)
        value, after = decode(reply["v"])
        for old, new in zip(args, after):
            write_back(old, new)
        return value

    def _refuse(self, *_):
        raise Unjudgeable(self.__name__)

    __getattr__ = __getitem__ = __instancecheck__ = __subclasscheck__ = __mro_entries__ = _refuse


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

    def scope(self, token, setup, modules, names):
        """A fresh namespace: the trusted prelude, modules the tests use unimported, the candidate's functions."""
        scope = types.ModuleType("tests").__dict__
        for entry in modules:
            module, _, name = entry.partition(":")
            found = importlib.import_module(module)
            scope[name or module] = getattr(found, name) if name else found
        if setup:
            exec(compile(setup, "<trusted>", "exec", dont_inherit=True), scope)
        scope.update({name: Remote(self.channel, token, name) for name in names})
        return scope

    def value(self, token, setup, modules, expression):
        """A trusted value, for comparison in the worker."""
        return eval(compile(expression, "<expected>", "eval", dont_inherit=True), self.scope(token, setup, modules, ()))

    def test(self, token, setup, modules, names, source):
        """True where the test passes, False where an assertion fails; other exceptions travel on."""
        scope = self.scope(token, setup, modules, names)
        try:
            exec(compile(source, "<test>", "exec", dont_inherit=True), scope)
        except AssertionError:
            return False
        except (Unjudgeable, BadReply):
            raise NotPlain("candidate object") from None
        return True


def serve_judge(channel) -> None:
    """Answer requests ``{"n", "op": "value" | "test", "args"}``; calls of the candidate travel in between."""
    judge = Judge(channel)
    while (request := channel.receive()) is not None:
        work = {"value": judge.value, "test": judge.test}[request["op"]]
        reply = answer(LIMIT, lambda work=work, request=request: work(request["n"], *request["args"]))
        channel.send({"n": request["n"], **reply})
