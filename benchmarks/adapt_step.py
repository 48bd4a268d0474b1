"""Time a step of an adaptation of SAM ViT-B, and the same step with nothing kept of the anchor.

    OMP_NUM_THREADS=1 python benchmarks/adapt_step.py [--side 1024] [--steps 2] [--masks 8] [--recompute]

The encoder has ViT-B's width, depth and heads and the decoder SAM's own, with **random weights**; one photo of noise of
``--side`` pixels (1,024 is SAM's) with so many boxes. ``kept``: the anchor's answers are known from an earlier epoch,
and both views go through the encoder together. ``plain``: anchor, teacher and student each encode their view, as the
method is written. Prints a row of markdown for each: CPU and wall seconds of a step (the least), the peak memory of the
process, and the greatest difference of the gradients, relative to the largest.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weaksam.data.sample_photos import read_photo
from weaksam.recipes.sam_adaptation import AdaptSettings
from weaksam.recipes.sam_adaptation.anchor import KeptAnchor
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos, box_masks
from weaksam.recipes.sam_adaptation.losses import prototypes, step_losses
from weaksam.recipes.sam_adaptation.networks import AdaptableSam, enlarged
from weaksam.recipes.sam_adaptation.training import Adaptation, AdaptBatch
from weaksam.sam.lora import lora_state
from weaksam.sam.official.architecture import SamArchitecture, build_sam
from weaksam.structures.dataset import Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def vit_b(side: int) -> AdaptableSam:
    """SAM ViT-B for inputs of ``side`` pixels, with random weights."""
    generator = torch.Generator().manual_seed(0)
    shape = SamArchitecture(side, 16, 768, 12, 12, 14, (2, 5, 8, 11), 256, 16, 3, 2, 2048, 3, 256)
    sam = build_sam(shape)
    state = {name: 0.02 * torch.randn(value.shape, generator=generator) for name, value in sam.state_dict().items()}
    sam.load_state_dict(
        {name: 1 + value if "norm" in name and "weight" in name else value for name, value in state.items()}
    )
    return AdaptableSam(sam)


def noise_photo(folder: Path, side: int, num: int) -> LabelledPhotos:
    """A photo of noise with ``num`` boxes as masks."""
    path = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(num, 2, generator=generator) * 0.5 * side
    boxes = torch.cat([corner, corner + (0.1 + 0.3 * torch.rand(num, 2, generator=generator)) * side], dim=1).round()
    masks = tuple(rle_from_mask(mask) for mask in box_masks(boxes, (side, side)))
    sample = Sample("noise.png", path, (side, side), (), None, 1)
    read_photo(sample)
    return LabelledPhotos((sample,), (Instances(boxes, torch.zeros(num, dtype=torch.long), masks=masks),), True)


def gradient_of(adaptation: Adaptation, losses: dict[str, Tensor]) -> Tensor:
    """All gradients in a row."""
    adaptation.weights.zero_grad()
    torch.stack(list(losses.values())).sum().backward(inputs=list(adaptation.weights.parameters()))
    return torch.cat([parameter.grad.flatten() for parameter in adaptation.weights.parameters()])  # type: ignore[union-attr]


def plain_losses(adaptation: Adaptation, batch: AdaptBatch) -> dict[str, Tensor]:
    """The losses by three passes, nothing kept."""
    (photo,) = batch.photos
    network, side = adaptation.network, adaptation.network.side
    seen = [network.encode([view.pixels]) for view in (photo.strong, photo.weak)]
    (student, iou), (teacher, _) = (network.decode(of_view, 0, photo.prompts) for of_view in seen)
    anchor = KeptAnchor(adaptation.anchor.network, 0.0, fixed=False)
    answer = anchor.answer(photo.weak.pixels, photo.key, photo.prompts, photo.numbers)
    of_teacher = prototypes(network.embedding(seen[1], 0), teacher)
    logits = enlarged(student, side), iou, enlarged(teacher, side)
    return step_losses(*logits, answer.masks, of_teacher, answer.prototypes, len(photo.prompts))


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2, help="steps of each kind, after one that is not counted")
    parser.add_argument("--masks", type=int, default=8)
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        photos = noise_photo(Path(folder), options.side, options.masks)
        settings = AdaptSettings(recompute=options.recompute)
        adaptation = Adaptation(vit_b(options.side), photos, settings)
        num = sum(value.numel() for value in lora_state(adaptation.network.encoder).values())
        (batch,) = adaptation.batches(0)
        with torch.no_grad():  # B begins as zeros, where A has no gradient
            for name, value in lora_state(adaptation.network.encoder).items():
                value.add_(1e-3 if ".b" in name else 0)
        gradients, best = {}, {}
        for kind in ("kept", "plain"):
            seconds = []
            for _ in range(options.steps + 1):
                before = time.process_time(), time.perf_counter()
                losses = adaptation.losses(batch) if kind == "kept" else plain_losses(adaptation, batch)
                gradients[kind] = gradient_of(adaptation, losses)
                seconds.append((time.process_time() - before[0], time.perf_counter() - before[1]))
            best[kind] = [min(column) for column in zip(*seconds[1:], strict=True)]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            cpu, wall = best[kind]
            print(f"| {kind} | {options.side} | {num:,} | {cpu:.1f} | {wall:.1f} | {peak:.1f} |", flush=True)
    off = (gradients["kept"] - gradients["plain"]).abs().max() / gradients["plain"].abs().max()
    print(f"plain / kept: {best['plain'][0] / best['kept'][0]:.2f}; gradients differ by {off:.1e} of the largest")


if __name__ == "__main__":
    main()
