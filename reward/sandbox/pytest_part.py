"""The part of pytest that suites of problem sets use, where pytest is not among the allowed packages."""

import contextlib
import math
import re
import sys
import types


class Failed(AssertionError):
    """A test failed otherwise than by an assertion, e.g. because nothing was raised."""


class Skipped(Exception):
    """A test skipped itself, so it has tested nothing."""


def offer(source) -> None:
    """Make `import pytest` work in `source`, unless pytest is an allowed package."""
    if "pytest" in source and "pytest" not in sys.modules:
        sys.modules["pytest"] = Pytest("pytest")


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
