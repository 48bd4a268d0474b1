"""Corrupt a photo in the manner of ImageNet-C and COCO-C: 15 kinds of noise, blur, weather and digital faults.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness (ICLR 2019), and Michaelis et al., Benchmarking
Robustness in Object Detection (2019), by the library imagecorruptions-imaug.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np

from weaksam.config import UserError

Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
]  # fmt: skip
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
"""In the order of the papers: three of noise, four of blur, four of weather, four digital."""
SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 32
"""The library's limit, pixels."""
_OWN_SEED = ("glass_blur", "impulse_noise")


def require_corruptions() -> Any:
    """The library; raises `UserError` where it is not installed."""
    try:
        return import_module("imagecorruptions")
    except ImportError as error:
        raise UserError(
            f"wanted the package imagecorruptions-imaug to corrupt photos with, found none that can be imported "
            f"({error}): pip install 'weaksam[corruptions]'"
        ) from None


def corrupted(image: np.ndarray, corruption: Corruption, severity: int, seed: int) -> np.ndarray:
    """``image``, uint8 RGB ``(H, W, 3)``, after ``corruption`` of ``severity`` 1 to 5; the same for the same ``seed``.

    Raises:
        UserError: the library is not installed.
        ValueError: a side has fewer than `LEAST_SIDE` pixels.
    """
    library = require_corruptions()
    if min(image.shape[:2]) < LEAST_SIDE:
        raise ValueError(f"wanted sides of at least {LEAST_SIDE} pixels, found {image.shape[1]} x {image.shape[0]}")
    drawn = np.random.get_state()  # the library draws from numpy's global numbers
    try:
        np.random.seed(seed % 2**32)
        options = {"seed": seed % 2**31} if corruption in _OWN_SEED else {}
        result = library.corrupt(image, severity=severity, corruption_name=corruption, **options)
    finally:
        np.random.set_state(drawn)
    return np.ascontiguousarray(result)
