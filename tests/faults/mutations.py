"""Damage and malice for bytes and texts, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

EXTREMES = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", bytes(8), b"\xff" * 8)


def damaged(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds with one to four kinds of damage: bits, bytes, extreme numbers, cuts, pieces gone, doubled or of another seed."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not data:
            break
        # half of the damage falls on the head, where formats say what follows
        place = draw.randrange(min(len(data), 128) if draw.random() < 0.5 else len(data))
        length = draw.randint(1, 64)
        match draw.randrange(7):
            case 0:
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place] = draw.randrange(256)
            case 2:
                extreme = draw.choice(EXTREMES)
                data[place : place + len(extreme)] = extreme
            case 3:
                del data[place + draw.randint(0, len(data)) :]
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = data[place : place + length]
            case _:
                other = draw.choice(seeds)
                start = draw.randrange(len(other))
                data[place : place + length] = other[start : start + length]
    return bytes(data)


def rewritten(seeds: Sequence[str], pieces: Sequence[str], draw: random.Random) -> str:
    """One of the seed texts with up to three places replaced by, or preceded by, one of the pieces."""
    text = draw.choice(seeds)
    for _ in range(draw.randint(1, 3)):
        place, length = draw.randint(0, len(text)), draw.choice((0, 0, 1, 3, 8))
        text = text[:place] + draw.choice(pieces) + text[place + length :]
    return text
