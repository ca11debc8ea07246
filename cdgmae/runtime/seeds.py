"""Seeds: every random draw is a pure function of (seed, stage, key or epoch, index); there is no global state."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, stage: str, key: str | int, index: int = 0) -> np.random.SeedSequence:
    """The seed sequence of one draw.

    Args:
        seed: The config's root seed.
        stage: Stage name, or `stage/purpose` where a stage has several streams.
        key: Image key, or a number such as the epoch.
        index: View index, step or sample number.
    """
    return np.random.SeedSequence([seed, _word(stage), _word(key) if isinstance(key, str) else key, index])


def numpy_generator(seed: int, stage: str, key: str | int, index: int = 0) -> np.random.Generator:
    """A NumPy generator for one draw, see `seed_sequence`."""
    return np.random.default_rng(seed_sequence(seed, stage, key, index))


def integer_seed(seed: int, stage: str, key: str | int, index: int = 0) -> int:
    """A 63-bit seed for libraries that take one number (torch.Generator.manual_seed), see `seed_sequence`."""
    return int(seed_sequence(seed, stage, key, index).generate_state(1, np.uint64)[0] >> 1)


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
