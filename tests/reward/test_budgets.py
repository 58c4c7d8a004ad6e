"""What one program, and one answer of it, can cost the worker."""

import contextlib
import random
import time
from fractions import Fraction

import pytest

from configs.schema import SandboxConfig
from reward.sandbox.plain import MAX_RATIOS, RATIO_BITS, BadReply, Encoder, TooLarge, decode, parse

PERMITTED = SandboxConfig().reply_kb << 10
PRIME = 2**61 - 1  # multiples of it have the hash 0


def digits(count: int) -> str:
    return f"{random.Random(count).getrandbits(4 * count) | 1:x}"


def listed(tag: str, parts: list[str]) -> str:
    return f'["{tag}",[{",".join(parts)}]]'


def filled(part: str) -> str:
    return listed("l", [part] * ((PERMITTED - 10) // (len(part) + 1)))


def multiple(number: int) -> str:
    return f'["i","{number * PRIME:x}"]'


def colliding(count: int, *parts: str) -> list[str]:
    """Tuples of equal hash, equal but for their last part."""
    return [listed("t", [*parts, multiple(number)]) for number in range(count)]


def nested(depth: int) -> str:
    return '["t",[' * depth + "1" + "]]" * depth


HALF = '["q","1","2"]'
REPLIES = {
    "colliding integers": listed("s", [multiple(number) for number in range(5_000)]),
    "colliding keys of a dict": listed("d", [part for n in range(5_000) for part in (multiple(n), "1")]),
    "colliding tuples": listed("s", colliding(5_000, *"12345678")),
    "colliding long tuples": listed("s", colliding(4_000, *["1"] * 100)),
    "colliding tuples of fractions": listed("s", colliding(700, *[HALF] * 14)),
    "more colliding tuples of fractions": listed("s", colliding(4_500, *[HALF] * 14)),
    "colliding fractions": listed("s", [f'["q","{number * PRIME + 1:x}","2"]' for number in range(5_000)]),
    "colliding frozensets": listed(
        "s", [listed("z", [*map(multiple, range(1, 60)), multiple(100 + number)]) for number in range(80)]
    ),
    "many groups of colliding tuples": listed(
        "s", [listed("t", [str(group), HALF, HALF, multiple(n)]) for group in range(120) for n in range(40)]
    ),
    "one huge fraction": f'["q","{digits(500_000)}","{digits(500_001)}"]',
    "large fractions": listed("l", [f'["q","{digits(RATIO_BITS // 4)}","{digits(RATIO_BITS // 4 - 1)}"]'] * 126),
    "as many fractions as may be": listed("l", [f'["q","{digits(45)}","{digits(44)}"]'] * MAX_RATIOS),
    "more fractions": filled(HALF),
    "small integers": filled("1"),
    "empty tuples": filled('["t",[]]'),
    "empty sets": filled('["s",[]]'),
    "deep keys": listed("s", [nested(98)] * 1_200),
    "lists within lists": filled("[" * 50 + "]" * 50),
    "one long number": f'["f","1.{"3" * 1_000_000}"]',
    "one huge integer": f'["i","{digits(1_000_000)}"]',
}


def cost(body: bytes) -> float:
    """CPU seconds to decode a reply, or to refuse it."""
    started = time.process_time()
    with contextlib.suppress(BadReply):
        decode(parse(body))
    return time.process_time() - started


@pytest.mark.parametrize("name", REPLIES)
def test_no_permitted_reply_is_dear_to_decode(name):
    body = REPLIES[name].encode()
    assert len(body) <= PERMITTED
    assert any(cost(body) < 0.5 for _ in range(3))  # at most 0.2 where the machine does nothing else


def test_keys_of_equal_hash_that_honest_programs_have_are_decoded():
    signs = {tuple(-1 - (number >> bit & 1) for bit in range(8)) for number in range(256)}  # hash(-1) == hash(-2)
    assert len({hash(key) for key in signs}) == 1
    for value in (signs, {number * PRIME: number for number in range(500)}, {frozenset({-1, x}) for x in range(500)}):
        assert decode(Encoder(PERMITTED).encode(value)) == value


def test_fractions_are_bounded_in_size_and_number():
    largest = Fraction(2**RATIO_BITS - 1, 2)
    assert decode(Encoder(PERMITTED).encode([largest, -largest])) == [largest, -largest]
    for value in (Fraction(2**RATIO_BITS, 3), [Fraction(1, 3)] * (MAX_RATIOS + 1)):
        with pytest.raises(TooLarge):
            Encoder(PERMITTED).encode(value)
    for tree in (["q", hex(2 ** (RATIO_BITS + 8)), "0x1"], ["l", [["q", "1", "3"]] * (MAX_RATIOS + 1)]):
        with pytest.raises(BadReply):
            decode(tree)
