"""Runs one test of a unittest or pytest suite, in a judge or (weakly) in the program's own process.

pytest itself need not be installed (see `pytest_part`).
"""

import contextlib
import itertools
import types

from couplet.reward.sandbox.pytest_part import Captured, MonkeyPatch, Skipped

SHARED: dict[str, dict] = {}  # namespaces of suites by their source


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
