"""Write scribbles or points for a folder of true masks, the same for the same seed and name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from weaksam.config import UserError
from weaksam.data.grey_pictures import pictures_by_name, read_mask
from weaksam.store.files import atomic_file
from weaksam.store.progress import progress
from weaksam.structures.scribbles import ScribbleStyle, scribbled


def write_scribbles(masks: Path, out: Path, style: ScribbleStyle, seed: int) -> int:
    """Write OUT/NAME.png for each mask in ``masks`` and return how many; levels 0 nothing, 1 object, 2 background.

    What is drawn follows from (seed, name), not from the other masks. Raises `UserError` for a mask without an object,
    and where ``out`` is the folder of the masks.
    """
    if out.resolve() == masks.resolve():
        raise UserError(f"wanted a folder of its own for scribbles, found that of the masks, {out}: name another one")
    files = pictures_by_name(masks)
    for name, path in progress(files.items(), len(files), "scribbles"):
        mask = read_mask(path)
        if not mask.any():
            raise UserError(f"wanted an object to scribble on in {path}, found an empty mask: remove it and its photo")
        rng = np.random.default_rng([seed, *name.encode()])
        target = out / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            Image.fromarray(scribbled(mask, style, rng)).save(temporary, format="PNG")
    return len(files)
