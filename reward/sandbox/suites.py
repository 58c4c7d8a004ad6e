"""Runs one test of a unittest or pytest suite, in a judge or (weakly) in the program's own process.

pytest itself need not be installed: if it is not among the allowed packages, `Pytest` replaces the part of it that
suites of problem sets use.
"""

import contextlib
import itertools
import math
import re
import sys
import types

SHARED: dict[str, dict] = {}  # namespaces of suites by their source


class Failed(AssertionError):
    """A test failed otherwise than by an assertion, e.g. because nothing was raised."""


class Skipped(Exception):
    """A test skipped itself, so it has tested nothing."""


def offer(source) -> None:
    """Make `import pytest` work in `source`, unless pytest is an allowed package."""
    if "pytest" in source and "pytest" not in sys.modules:
        sys.modules["pytest"] = Pytest("pytest")


def shared(source, scope) -> dict:
    """The namespace of a suite, which runs once per process: its tests may depend on what others left there."""
    if source not in SHARED:
        SHARED[source] = namespace = dict(scope)
        exec(compile(source, "<suite>", "exec", dont_inherit=True), namespace)
    return SHARED[source]


def run_unittest(scope, owner, name) -> None:
    """Run the method `name` of the class `owner` with its fixtures. Raises AssertionError, or RuntimeError for an error."""
    import unittest

    result = unittest.TestResult()
    unittest.TestSuite([scope[owner](name)]).run(result)
    if result.failures:
        raise AssertionError(result.failures[0][1][-2000:])
    if result.errors or result.unexpectedSuccesses:
        raise RuntimeError(result.errors[0][1][-2000:] if result.errors else "unexpected success")
    if result.skipped:
        raise Skipped(result.skipped[0][1])


def run_pytest(scope, path, place) -> None:
    """Run the function or method `path`, with set `place` of its parameters (None: with all of them)."""
    owner, _, name = path.rpartition(".")
    instance = scope[owner]() if owner else None
    function = getattr(instance, name) if owner else scope[name]
    sets = list(parameter_sets(function, type(instance) if owner else None))
    for values in sets if place is None else [sets[place]]:
        with contextlib.ExitStack() as stack:
            fixtures = Fixtures(scope, instance, stack)
            if owner:
                fixtures.around(instance, "setup_method", "teardown_method", function)
            else:
                fixtures.around(types.SimpleNamespace(**scope), "setup_function", "teardown_function", function)
            fixtures.use_automatic()
            missing = {key: fixtures.get(key) for key in parameters(function) if key not in values}
            outcome = function(**missing, **values)
            if isinstance(outcome, types.CoroutineType):
                import asyncio

                asyncio.run(outcome)


def parameters(function):
    """Names of the parameters of a function; importing `inspect` earlier would burden every fork."""
    import inspect

    return list(inspect.signature(function).parameters)


def parameter_sets(function, owner):
    """Keyword arguments of each run that ``pytest.mark.parametrize`` asks for."""
    marks = [*getattr(function, "pytest_parameters", ()), *getattr(owner, "pytest_parameters", ())]
    for chosen in itertools.product(*([(names, values) for values in sets] for names, sets in marks)):
        found: dict = {}
        for names, values in chosen:
            found.update(zip(names, values))
        yield found


def is_fixture(value) -> bool:
    """Whether a value of a suite is a fixture; functions of the candidate may only be called."""
    plain = isinstance(value, (types.FunctionType, types.MethodType))
    return plain and getattr(value, "pytest_fixture", False) is True


class Fixtures:
    """The fixtures of one test: the suite's own, and the few built-in ones that suites of problem sets use."""

    def __init__(self, scope, instance, stack) -> None:
        self.scope, self.instance, self.stack = scope, instance, stack
        self.made: dict = {}

    def around(self, owner, before, after, function) -> None:
        for name, later in ((before, False), (after, True)):
            hook = getattr(owner, name, None)
            if hook is None:
                continue
            call = (lambda hook=hook: hook(function)) if parameters(hook) else hook
            self.stack.callback(call) if later else call()

    def find(self, name):
        found = getattr(self.instance, name, None) if self.instance is not None else None
        return found if found is not None else self.scope.get(name)

    def use_automatic(self) -> None:
        owned = vars(type(self.instance)) if self.instance is not None else {}
        for name, value in {**self.scope, **owned}.items():
            if is_fixture(value) and value.pytest_automatic:
                self.get(name)

    def get(self, name):
        if name not in self.made:
            self.made[name] = self.make(name)
        return self.made[name]

    def make(self, name):
        function = self.find(name)
        if not is_fixture(function):
            return self.built_in(name)
        value = function(**{key: self.get(key) for key in parameters(function)})
        if isinstance(value, types.GeneratorType):
            self.stack.callback(next, value, None)
            return next(value)
        return value

    def built_in(self, name):
        if name == "capsys":
            return self.stack.enter_context(Captured())
        if name == "monkeypatch":
            return self.stack.enter_context(MonkeyPatch())
        if name == "tmp_path":
            import pathlib
            import tempfile

            return pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        raise LookupError(f"no fixture {name!r}")


class Captured:
    """The fixture `capsys`."""

    def __enter__(self):
        self.before = sys.stdout, sys.stderr
        self.begin()
        return self

    def begin(self):
        import io

        self.out, self.err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()

    def readouterr(self):
        found = types.SimpleNamespace(out=self.out.getvalue(), err=self.err.getvalue())
        self.begin()
        return found

    def __exit__(self, *_):
        sys.stdout, sys.stderr = self.before


class MonkeyPatch(contextlib.ExitStack):
    """The fixture `monkeypatch`."""

    def setattr(self, target, name, value=None, raising=True):
        if isinstance(target, str):
            value = name
            target, name = self.resolved(target)
        if raising and not hasattr(target, name):
            raise AttributeError(name)
        had, before = hasattr(target, name), getattr(target, name, None)
        setattr(target, name, value)
        self.callback(setattr, target, name, before) if had else self.callback(delattr, target, name)

    def resolved(self, path):
        module, _, name = path.rpartition(".")
        __import__(module)
        return sys.modules[module], name

    def setitem(self, mapping, name, value):
        before = dict(mapping)
        self.callback(lambda: (mapping.clear(), mapping.update(before)))
        mapping[name] = value

    def setenv(self, name, value):
        import os

        self.setitem(os.environ, name, value)


class Raises:
    """What ``pytest.raises`` gives: a context that expects an exception."""

    def __init__(self, expected, match=None) -> None:
        self.expected, self.pattern = expected, match
        self.value = self.type = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is None:
            raise Failed("DID NOT RAISE")
        if not issubclass(kind, self.expected):
            return False
        self.type, self.value = kind, error
        if self.pattern is not None:
            self.match(self.pattern)
        return True

    def match(self, pattern):
        assert re.search(pattern, str(self.value)), f"{pattern!r} does not match {str(self.value)!r}"
        return True


class Approx:
    """What ``pytest.approx`` gives: equal within a tolerance, number by number."""

    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(self, expected, rel=None, abs=None, nan_ok=False) -> None:
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def near(self, actual, expected):
        if isinstance(expected, dict):
            return actual.keys() == expected.keys() and all(self.near(actual[key], expected[key]) for key in expected)
        if isinstance(expected, (list, tuple)) or hasattr(expected, "tolist"):
            return len(actual) == len(expected) and all(map(self.near, actual, expected))
        if actual == expected:
            return True
        if isinstance(expected, (str, bytes, bool)) or expected is None:
            return False
        if math.isnan(abs(expected)):
            return self.nan_ok and math.isnan(abs(actual))
        if math.isinf(abs(expected)):
            return False
        relative = self.rel if self.rel is not None else (1e-6 if self.abs is None else 0.0)
        return abs(actual - expected) <= max(relative * abs(expected), 1e-12 if self.abs is None else self.abs)

    def __eq__(self, actual):
        try:
            return bool(self.near(actual, self.expected))
        except (AttributeError, IndexError, KeyError, TypeError):
            return False

    __hash__ = None  # type: ignore[assignment]


class Mark:
    """``pytest.mark``: `parametrize` counts, `skip` skips, any other mark changes nothing."""

    def __getattr__(self, name):
        def mark(*args, **_):
            return args[0] if len(args) == 1 and callable(args[0]) else lambda marked: marked

        return mark

    def parametrize(self, names, values, **_):
        names = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
        sets = [v.values if isinstance(v, Param) else v if len(names) > 1 else (v,) for v in values]

        def mark(marked):
            marked.pytest_parameters = [*getattr(marked, "pytest_parameters", ()), (names, sets)]
            return marked

        return mark


class Param:
    """One set of values, given by ``pytest.param``."""

    def __init__(self, *values, **_) -> None:
        self.values = values


class Pytest(types.ModuleType):
    """What suites of problem sets use of pytest."""

    mark = Mark()
    param = Param
    approx = Approx

    def raises(self, expected, *args, match=None, **kwargs):
        """A context that expects an exception, or the exception that ``args[0]`` raises with the other arguments."""
        context = Raises(expected, match)
        if not args:
            return context
        with context:
            args[0](*args[1:], **kwargs)
        return context

    def fixture(self, function=None, *, autouse=False, **_):
        def mark(function):
            function.pytest_fixture, function.pytest_automatic = True, autouse
            return function

        return mark if function is None else mark(function)

    def fail(self, reason="", **_):
        raise Failed(reason)

    def skip(self, reason="", **_):
        raise Skipped(reason)

    def importorskip(self, name, *_, **__):
        return __import__(name)

    def main(self, *_, **__):
        return 0

    def warns(self, *_, **__):
        import warnings

        return warnings.catch_warnings(record=True)
