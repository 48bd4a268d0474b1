"""Segment whole panoramas with a trained student: a class map and a picture of each."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torchvision.transforms.v2 import functional as TF

from weaksam.config import UserError
from weaksam.data.images import read_image
from weaksam.data.photos import list_photos
from weaksam.models.semantic.network import ARCHITECTURE, IMAGENET, SemanticNetwork, segformer_of
from weaksam.recipes.panorama.measuring import class_map, whole_logits
from weaksam.recipes.panorama.photos import check_proportions
from weaksam.recipes.panorama.recipe import KIND
from weaksam.store.files import atomic_file
from weaksam.store.progress import progress
from weaksam.store.weights import load_state, read_metadata

_OPACITY = 0.55
"""Of the classes' colours on the picture."""


@dataclass(frozen=True)
class PanoramaStudent:
    """A trained student with its classes, and how panoramas are shown to it."""

    network: SemanticNetwork
    classes: tuple[str, ...]
    vertical_degrees: float
    height: int | None

    def segment(self, image: np.ndarray) -> np.ndarray:
        """The class map, int64 ``(H, W)``, of a whole panorama, uint8 ``(H, W, 3)``."""
        size = (image.shape[0], image.shape[1])
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.height is not None and self.height != size[0]:
            pixels = TF.resize(pixels, [self.height, max(1, round(size[1] * self.height / size[0]))], antialias=True)
        return class_map(whole_logits(self.network, pixels), size)


def load_student(path: Path, device: torch.device) -> PanoramaStudent:
    """The student in a file that ``weaksam panorama run`` wrote; raises `UserError` for any other file."""
    state = load_state(path, "a panorama student")
    try:
        facts = read_metadata(path)
    except (SafetensorError, OSError):
        facts = {}
    if facts.get("kind") != KIND:
        raise UserError(
            f"wanted a student of 'weaksam panorama run' (OUT/student.safetensors), found another file at {path}: give "
            "that file"
        )
    classes = tuple(facts["classes"])
    architecture = {key: facts["architecture"][key] for key in ARCHITECTURE}
    network = segformer_of(architecture, len(classes), 0, "the student", *facts.get("colours", IMAGENET))
    network.load_state_dict(state)
    return PanoramaStudent(network.to(device).eval(), classes, facts["vertical_degrees"], facts["height"])


def predict(student: PanoramaStudent, paths: Sequence[Path], out: Path) -> list[Path]:
    """Write OUT/NAME.png, the class of each pixel, and OUT/NAME_picture.jpg for every panorama; returns the maps.

    ``paths``: photos, or folders of them, whose names keep their sub-folders. Raises `UserError` for a photo that
    cannot be read, one whose sides are not a panorama's, and two of one name.
    """
    photos = _photos(paths)
    names: dict[str, Path] = {}
    for name, path in photos:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in names:
            raise UserError(f"wanted panoramas of different names, found {names[stem]} and {path}: predict one by one")
        names[stem] = path
    written = []
    colours = palette(len(student.classes))
    for stem, path in progress(names.items(), len(names), "segmenting panoramas"):
        image = read_image(path)
        check_proportions((image.shape[0], image.shape[1]), student.vertical_degrees, str(path), trained=True)
        labels = student.segment(image)
        written.append(_write(out, stem, image, labels, colours))
    return written


def _photos(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name and path of each photo."""
    photos: list[tuple[str, Path]] = []
    for path in paths:
        photos += sorted(list_photos(path).items()) if path.is_dir() else [(path.name, path)]
    return photos


def _write(out: Path, stem: str, image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> Path:
    """Write map and picture of one panorama; returns the map's path."""
    indices = Image.fromarray(labels.astype(np.uint8))
    indices.putpalette(colours.tobytes())
    with atomic_file(out / f"{stem}.png") as temporary:
        indices.save(temporary, format="PNG")
    blended = (1 - _OPACITY) * image + _OPACITY * colours[labels]
    with atomic_file(out / f"{stem}_picture.jpg") as temporary:
        Image.fromarray(blended.round().astype(np.uint8)).save(temporary, format="JPEG", quality=92)
    return out / f"{stem}.png"


def palette(num_classes: int) -> np.ndarray:
    """A colour for each class, uint8 ``(C, 3)``: hues a golden ratio apart, so that neighbours differ."""
    hues = [(label * 0.618034) % 1 for label in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (n % 2), 0.95 - 0.3 * (n % 3 == 2)) for n, hue in enumerate(hues)]
    return (np.array(colours).reshape(-1, 3) * 255).round().astype(np.uint8)
