"""Derive the random numbers of every image and epoch from one seed, whatever the order of the work."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, *keys: str | int) -> int:
    """A seed in [0, 2^63) from ``seed`` and keys such as an image id; the same on every machine and run.

    A number and its text are different keys, and ("a", "b") differs from ("ab",).
    """
    digest = hashlib.sha256(repr((int(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices); ``seed`` is any integer of at least 0."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
