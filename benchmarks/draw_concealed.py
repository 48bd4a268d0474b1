"""Draw rendered scenes of concealed objects with their scribbles, fused labels, weights and truth, for the docs.

python benchmarks/draw_concealed.py FIGURE.jpg [--scenes 6] [--seed 7] [--side 150]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from weaksam.recipes.concealed.fused_labels import PromptSource, fused_label
from weaksam.recipes.concealed.settings import FusedLabelSettings
from weaksam.report.sheets import arranged, write_picture
from weaksam.sam.batches import BatchLimit
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.ensemble import pixel_weights, uncertainty
from weaksam.scenes.camouflage import CamouflageScene, CamouflageSettings, render_camouflage
from weaksam.structures.scribbles import BACKGROUND, FOREGROUND

DARK = "#202020"


def drawn(values: np.ndarray, side: int) -> Image.Image:
    """A picture of an image uint8 ``(H, W, 3)`` or of a map ``(H, W)`` in [0, 1]."""
    pixels = values if values.ndim == 3 else (values * 255).round().astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def scribbled(scene: CamouflageScene) -> np.ndarray:
    """The photo with object scribbles in red and background scribbles in blue."""
    pixels = scene.image.copy()
    pixels[scene.scribble == FOREGROUND] = (255, 40, 40)
    pixels[scene.scribble == BACKGROUND] = (60, 110, 255)
    return pixels


def main() -> None:
    """Draw a column for each scene: photo, scribbles, fused map, weights, truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path, metavar="FIGURE")
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--side", type=int, default=150)
    options = parser.parse_args()
    segmenter = build_segmenter(SegmenterSettings(family="nano"), torch.device("cpu"))
    settings, rows = FusedLabelSettings(), []
    for number in range(options.scenes):
        scene = render_camouflage(CamouflageSettings(size=128, difference=1.0), options.seed * 1_000_000 + number)
        levels = torch.from_numpy(scene.scribble)
        labels = torch.where(levels == FOREGROUND, 1, torch.where(levels == BACKGROUND, 0, -1)).to(torch.int8)
        fused = fused_label(segmenter, scene.image, PromptSource(labels, settings), settings, number, BatchLimit(4))
        state = "trains" if uncertainty(fused).kept() else "left out"
        weights = pixel_weights(fused, "soft").numpy()
        rows.append(
            [
                ("photo", scene.image),
                ("scribbles", scribbled(scene)),
                (f"fused: {state}", fused.numpy()),
                ("weights", weights),
                ("truth", scene.mask.astype(np.float32)),
            ]
        )
    pictures = [
        ([(row[kind][0], DARK)], drawn(row[kind][1], options.side)) for kind in range(len(rows[0])) for row in rows
    ]
    write_picture(options.figure, arranged(pictures, options.scenes))


if __name__ == "__main__":
    main()
