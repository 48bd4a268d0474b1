"""Draw rendered scenes with their true boxes, a row for each choice of settings, as the docs show them.

    python benchmarks/draw_scenes.py --out docs/figures/crowded_scenes.jpg --row instances_per_class=[2,5] \\
      --row instances_per_class=[2,5] touching=0.7
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from weaksam.config import load_settings
from weaksam.report.pictures import colour_of
from weaksam.scenes.synthetic import SceneSettings, render_scene


def scene_picture(settings: SceneSettings, seed: int) -> np.ndarray:
    """Scene ``seed`` as uint8 ``(size, size, 3)``, each object framed in the colour of its class."""
    scene = render_scene(settings, seed)
    picture = Image.fromarray(scene.image)
    draw = ImageDraw.Draw(picture)
    for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=ImageColor.getrgb(colour_of(label)), width=2)
    return np.asarray(picture)


def draw_rows(rows: Sequence[SceneSettings], num: int, seed: int) -> np.ndarray:
    """``num`` scenes of each of ``rows`` from ``seed`` on, one row below the other; all of one size."""
    pictures = [[scene_picture(settings, seed + number) for number in range(num)] for settings in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in pictures])


def main() -> None:
    """Draw the rows that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.jpg or .png)")
    parser.add_argument("--row", nargs="*", action="append", help="key=value as for 'weaksam data synth'; repeatable")
    parser.add_argument("--num", type=int, default=5, help="scenes a row; 5")
    parser.add_argument("--seed", type=int, default=0, help="number of the first scene; 0")
    arguments = parser.parse_args()
    rows = [load_settings(SceneSettings, None, given) for given in arguments.row or [[]]]
    Image.fromarray(draw_rows(rows, arguments.num, arguments.seed)).save(arguments.out, quality=88)
    print(arguments.out)


if __name__ == "__main__":
    main()
