"""What tests call to note which of their checks run (`planner.noting` puts the calls there).

In a judge, or for a weak test in the program's own process, which could forge that like all the rest.
"""

import builtins
import operator

DONE: dict[str, int] = {}  # how often the test at hand has run the check at a place
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def checked(place, value=None):
    """`value`, which is a check, or what a check has returned."""
    DONE[place] = DONE.get(place, 0) + 1
    return value


def each(place, values):
    """`values`, each of which is checked."""
    for value in values:
        yield checked(place, value)


def ordered(order, left, right):
    """Whether two values are so ordered that a test fails; a NaN, which is in no order, fails it, too."""
    return ORDERS[order](left, right) or is_nan(left) or is_nan(right)


def is_nan(value) -> bool:
    return (isinstance(value, (float, complex)) or type(value).__name__ == "Decimal") and value != value


def paired(place, foreign, *iterables, **options):
    """``zip(*iterables)`` of values of the program (where `foreign` is true) with trusted ones, all of which must be used.

    Raises AssertionError if the program gave fewer.
    """
    trusted = [values for values, mine in zip(iterables, foreign) if not mine]
    sizes = [len(values) for values in trusted if hasattr(values, "__len__") and not isinstance(values, range)]
    number = 0
    for row in zip(*iterables, **options):
        number += 1
        yield row
    if len(sizes) == len(trusted):
        if number < min(sizes):
            raise AssertionError("fewer values than there are expected ones")
        checked(place)


vars(builtins).update(_checked=checked, _each=each, _paired=paired, _ordered=ordered)
