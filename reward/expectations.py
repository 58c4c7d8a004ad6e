"""What only a problem decides, computed once and kept for later programs: trusted values, outputs of its canonical
solution, whether its tests can be judged here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from couplet.data.problem import Problem
from couplet.reward.candidate import Asked, Candidate, TestFailed
from couplet.reward.judge import REPLY, Judge, TrustedTimeout, value_of
from couplet.reward.oracles import EXISTENCE_TASKS, LONG_ANSWERS
from couplet.reward.planner.plan import Case, ProblemDefect
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.plain import Encoder

ENDINGS = 3  # ends of the process that runs trusted code, each under a zygote of its own, that make a defect


# Notes what a program asks for that the sandbox forbids, by the interpreter's audit events (PEP 578), even if it does not
# load. What packages try beside their work (joblib looks for cores in /proc and by `lscpu`) does not count; psutil reads
# /proc as its work. Data that NLTK lacks and the semaphores of a pool of processes are named in exceptions only.
WATCHED = """
import sys as _sys
_watched, _PLACES = [], ("<program>", "<suite>", "<test>")
_PROCESS = {{"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}}
_NETWORK = {{"socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.sendto"}}
_DATA = "data of NLTK, which is not installed"
_ERRORS = {{"nltk.download": _DATA, "textblob.download": _DATA, "_multiprocessing.SemLock(": "another process"}}
def _own():
    frame = _sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename not in _PLACES and "site-packages" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "site-packages" not in frame.f_code.co_filename or "/psutil/" in frame.f_code.co_filename
def _watch(event, arguments):
    if event in _PROCESS and _own():
        _watched.append("another process")
    elif event in _NETWORK or (event == "socket.__new__" and arguments[1] != 1):
        _watched.append("the network")
    elif event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).strip("b'")[:5] in ("/proc", "/sys/") and _own():
        _watched.append("/proc or /sys")
def _run(source, name):
    try:
        exec(compile(source, name, "exec", dont_inherit=True), globals())
    except Exception as error:
        _watched.extend(needs for text, needs in _ERRORS.items() if text in str(error))
        raise
_sys.addaudithook(_watch)
try:
    _run({solution!r}, "<program>")
except Exception:
    pass
"""


class Unknown(Exception):
    """A trusted value has no plain form, or its code fails; the argument says which."""


class Expectations:
    """Trusted values that tests compare with, each computed once by a judge and kept for later programs.

    What cannot be computed is kept as well: code that fails (`Unknown`), and code that does not end (`ProblemDefect`).
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self.values: dict[tuple[Any, ...], tuple[type[Exception] | None, Any]] = {}
        self.endings: Counter[tuple[Any, ...]] = Counter()
        self.slow: set[str] = set()  # problems whose tests ran out of time with some program
        # How often a test runs which checks on its canonical solution; None if that does not pass it.
        self.checks: dict[tuple[Any, ...], dict[str, int] | None] = {}
        self.weak: dict[
            tuple[Any, ...], bool
        ] = {}  # whether a test can only be judged weakly, by its canonical solution
        self.needs: dict[
            tuple[Any, ...], str
        ] = {}  # what a suite needs and the sandbox does not have; empty if nothing

    def trusted(self, problem: Problem, case: Case, judge: Judge) -> Any:
        """The value of a case's right side. Raises `Unknown`, `ProblemDefect` or `SandboxFault`."""
        arguments = [case.prelude, list(case.modules), case.expected_source]
        key = (case.prelude, case.modules, case.expected_source)
        return self._get(problem, key, lambda: value_of(judge.ask("value", arguments)))

    def canonical(self, problem: Problem, case: Case, canonical: Callable[[], Asked]) -> Any:
        """The canonical solution's output for a case's arguments. Raises `Unknown`, `ProblemDefect` or `SandboxFault`."""
        encoded = encode_arguments(case)
        key = (problem.source, problem.canonical_solution, problem.entry_point, repr(encoded))
        return self._get(problem, key, lambda: output(problem, canonical(), encoded))

    def require(self, problem: Problem, imports: tuple[str, ...], judge: Judge) -> None:
        """Raises `ProblemDefect` if an import of a problem's own code fails here."""
        failed = self._get(problem, imports, lambda: value_of(judge.ask("imports", [list(imports)])))
        if failed is not None:
            statement, error = failed
            raise ProblemDefect(
                f"problem {problem.problem_id}: its tests cannot run `{statement}` here ({error}); a package that they need "
                "must be installed and listed in sandbox.packages, with what it needs itself"
            )

    def count_ending(self, problem: Problem, key: tuple[Any, ...]) -> None:
        """A process ended under a problem's own code alone. Raises `ProblemDefect` if that has happened too often."""
        self.endings[key] += 1
        if self.endings[key] > ENDINGS:
            raise ProblemDefect(f"problem {problem.problem_id}: its own code ends the process that runs it")

    def _get(self, problem: Problem, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        if key not in self.values:
            if len(self.values) >= self.limit:
                self.values.clear()
                self.endings.clear()
            self.values[key] = self._computed(problem, key, compute)
        error, value = self.values[key]
        if error is not None:
            raise error(value)
        return value

    def _computed(
        self, problem: Problem, key: tuple[Any, ...], compute: Callable[[], Any]
    ) -> tuple[type[Exception] | None, Any]:
        try:
            return None, compute()
        except TrustedTimeout:
            reason = "timeout"
        except TestFailed as failed:
            reason = failed.reason
        except SandboxFault as fault:
            if fault.kind != "judge":
                raise
            reason = "exit"
        if reason == "exit":
            self.endings[key] += 1
            if self.endings[key] < ENDINGS:
                raise SandboxFault("expected", "the process of a test's trusted code ended")
        if reason in ("timeout", "exit"):
            return ProblemDefect, f"problem {problem.problem_id}: its own code to compare with ends by {reason}"
        return Unknown, reason


def watched(solution: str, tests: Sequence[str], setup: str, judge: Judge) -> tuple[list[bool], str]:
    """(whether a solution passes each test in its own process, in order; what the first that fails asks for and the
    sandbox does not have, or nothing).
    """
    own = Candidate(judge.sandbox, judge.config, WATCHED.format(solution=solution), setup, len(tests))
    passed, needs = [False] * len(tests), ""
    try:
        for place, source in enumerate(tests):
            own.begin_test()
            passed[place] = own.ask("exec", f"_run({source!r}, '<test>')").kind == "v"
            if not passed[place] and not needs and (found := value_of(own.ask("eval", "_watched"))):
                needs = str(found[0])
    except TestFailed:
        pass
    finally:
        own.end()
    return passed, needs


def output(problem: Problem, program: Asked, encoded: Any) -> Any:
    """What a program's entry point returns. An object without a plain form is True if only existence counts."""
    program.begin_test()
    reply = program.ask("result", *oracle_question(problem, encoded))
    if reply.kind == "o" and problem.source == "mbpp+" and problem.entry_point in EXISTENCE_TASKS:
        return True
    return value_of(reply)


def oracle_question(problem: Problem, encoded: Any) -> list[Any]:
    """The arguments of the request for the output of a problem's entry point."""
    factor = LONG_ANSWERS.get((problem.source, problem.entry_point or ""))
    return [problem.entry_point, encoded, ["d", []], *([factor] if factor else [])]


def encode_arguments(case: Case) -> Any:
    """The arguments of an oracle case, encoded for a call."""
    return Encoder(REPLY).encode(list(case.arguments))
