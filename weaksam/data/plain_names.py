"""Look at many names of files at once for anything in them that needs a closer look."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ODD_PARTS = ("\\", "%", ":", "..", "//", "./", "\n/", "\n.", "/\n", "/.\n")
"""What a name has that is not plain, of names with an end of line before and behind each."""
_BLANK_ENDS = re.compile(r"\n\s|\s\n")
"""Blanks around one of these names, or nothing else."""


def plain_text(names: Sequence[str]) -> str | None:
    """``names`` with an end of line before and behind each, where all are plain; else None.

    A plain name has ASCII characters only, one at least, and no blanks around it; folders before it with plain slashes,
    none of them ``.`` or ``..`` and no root; no ending of a folder, no address, no drive and no escaped characters.
    """
    text = "\n".join(("", *names, ""))
    if not text.isascii() or any(part in text for part in _ODD_PARTS) or text.count("\n") != len(names) + 1:
        return None
    words = text.split()
    if len(words) == len(names) and "\n".join(words) == text[1:-1]:
        return text
    return None if _BLANK_ENDS.search(text) else text
