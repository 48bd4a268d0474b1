"""Recompute the blocks of an image encoder on the way back, instead of keeping all they computed: less memory."""

from __future__ import annotations

import functools
import re

from torch import nn
from torch.utils.checkpoint import checkpoint

_BLOCK = re.compile(r"^(.*\.\d+)\.")


def recompute_blocks(encoder: nn.Module, layers: list[str]) -> int:
    """Let every block of ``encoder`` that holds one of ``layers`` be recomputed, in place; returns how many do so.

    ``layers``: names as `add_lora` returns them. A block is what a list of modules holds; gradients stay the same.
    """
    names = sorted({match[1] for name in layers if (match := _BLOCK.match(name)) is not None})
    for name in names:
        block = encoder.get_submodule(name)
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(names)
