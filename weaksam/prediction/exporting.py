"""Export the network of a checkpoint to ONNX or torch.export, with a runner beside it, and compare both."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from weaksam import __version__
from weaksam.config import UserError
from weaksam.models.backbones.weights import input_colours
from weaksam.models.exported.dino import FixedDino
from weaksam.models.exported.network import FixedNetwork
from weaksam.models.exported.rcnn import FixedRcnn
from weaksam.models.exported.translations import translations
from weaksam.prediction import onnx_runner
from weaksam.prediction.checkpoint import Checkpoint
from weaksam.prediction.networks import build_detector
from weaksam.store.files import atomic_file, write_json_atomic

Format = Literal["onnx", "pt2"]
FORMATS = ("onnx", "pt2")
OPSET = 18
"""ONNX's version of operators: `GridSample` and `RoiAlign` as they are meant here came with 16."""
RUNNER = "onnx_runner.py"
_STRIDE = 32
_MASKS = {"mask_rcnn": "box", "mask2former": "frame"}
_COMPARED = 100


@dataclass(frozen=True)
class Parity:
    """How far the exported network is from the same network in torch, on ``num_photos`` photos in the same frame.

    The best 100 detections of each are paired by class and place. ``box``: largest difference of a corner in pixels;
    ``score``: of a score; ``mask``: of a mask's numbers, 0 without masks; ``unpaired``: detections without a partner.
    """

    num_photos: int
    box: float
    score: float
    mask: float
    unpaired: int

    def __str__(self) -> str:
        return (
            f"parity on {self.num_photos} photos: boxes within {self.box:.2g} px, scores within {self.score:.2g}, "
            f"mask values within {self.mask:.2g}, {self.unpaired} detections unpaired"
        )


@dataclass(frozen=True)
class ExportedModel:
    """An export: its ``folder``, the model's file and, where they could be compared, how equal the two are."""

    folder: Path
    model: Path
    parity: Parity | None

    def __str__(self) -> str:
        size = self.model.stat().st_size / 2**20
        said = f"; {self.parity}" if self.parity is not None else ""
        return f"{self.model} ({size:.1f} MiB), {self.folder / 'model.json'}{said}"


def export_model(
    checkpoint: Checkpoint,
    out: Path,
    format: Format = "onnx",
    *,
    size: tuple[int, int] | None = None,
    photos: Sequence[np.ndarray] = (),
) -> ExportedModel:
    """Write the network of ``checkpoint`` below ``out`` in a ``format`` that needs no weaksam to run.

    ``onnx``: ``model.onnx``, and ``onnx_runner.py``, which runs it by numpy and onnxruntime. ``pt2``: ``model.pt2`` of
    torch.export. Both with ``model.json``: classes, sizes, thresholds, outputs, licence. ``size`` (H, W): the frame
    that photos are fitted into, rounded up to multiples of 32; None: a square of the checkpoint's longer side. Any
    number of photos go in a batch. The network looks at a photo once: mirrored views and other scales of a checkpoint's
    settings are left out. On ``photos``, uint8 RGB ``(H, W, 3)``, and on a drawn one, it is compared with torch.

    Raises:
        UserError: a network that cannot be exported, an unknown format, or onnx and onnxruntime are missing.
    """
    _refuse(checkpoint, format)
    settings: Any = checkpoint.settings
    height, width = size or (settings.long_side, settings.long_side)
    frame = (_rounded_up(height), _rounded_up(width))
    network = fixed_network(checkpoint, frame)
    about = description(checkpoint, network)
    example = _example(frame)
    program = _program(network, example)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"model.{format}"
    if format == "onnx":
        _save_onnx(program, network, path)
        with atomic_file(out / RUNNER) as temporary:
            shutil.copyfile(onnx_runner.__file__, temporary)
    else:
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            torch.export.save(program, file)
    write_json_atomic(out / "model.json", about, indent=1)
    batches = [example, *(_shown(photo, about) for photo in photos)]
    parity = measured_parity(network, _runner(out, path, about, format), batches)
    write_json_atomic(out / "parity.json", asdict(parity), indent=1)
    return ExportedModel(out, path, parity)


def _refuse(checkpoint: Checkpoint, format: str) -> None:
    """`UserError` for what cannot be exported."""
    if format not in FORMATS:
        raise UserError(f"wanted a format of models ({', '.join(FORMATS)}), found {format!r}: name one of them")
    architecture = checkpoint.header.architecture
    if checkpoint.header.proposals is not None:
        raise UserError(
            f"wanted a network that detects by itself, found {architecture} in {checkpoint.path}, which scores the "
            "proposals that a segmenter makes first: export the checkpoint of retrain (with retrain.given_proposals=0) "
            "or of wsis"
        )
    if format == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            try:
                import_module(name)
            except ImportError:
                raise UserError(
                    f"wanted the package {name} to export to ONNX, found none: pip install 'weaksam[onnx]'"
                ) from None


def fixed_network(checkpoint: Checkpoint, frame: tuple[int, int]) -> FixedNetwork:
    """The network of ``checkpoint`` for photos in ``frame`` (H, W), on the CPU."""
    header, settings = checkpoint.header, checkpoint.settings
    model: Any = build_detector(checkpoint, torch.device("cpu")).model
    colours = input_colours(header.backbone)
    network: FixedNetwork
    if header.architecture == "mask2former":
        from weaksam.models.exported.mask2former import FixedMask2Former  # here, as transformers takes seconds

        limits: Any = settings
        network = FixedMask2Former(model, frame, limits.max_boxes)
    elif header.architecture == "dino":
        network = FixedDino(model, frame, colours)
    else:
        network = FixedRcnn(model, frame, colours)
    return network.eval()


def description(checkpoint: Checkpoint, network: FixedNetwork) -> dict[str, Any]:
    """What ``model.json`` says: what goes in, what comes out, and what a runner needs to know."""
    header, settings = checkpoint.header, checkpoint.settings
    limits: Any = settings
    return {
        "weaksam": __version__,
        "architecture": header.architecture,
        "classes": list(header.classes),
        "category_ids": list(header.category_ids),
        "licence": header.licence,
        "height": network.frame[0],
        "width": network.frame[1],
        "short_side": limits.short_side,
        "long_side": limits.long_side,
        "inputs": {
            "images": "uint8 (batch, 3, height, width) RGB, photos at the upper left, padded with anything",
            "sizes": "int64 (batch, 2), height and width of each photo in the frame",
        },
        "outputs": list(network.output_names),
        "masks": _MASKS.get(header.architecture, "none"),
        "min_score": limits.min_score,
        "max_boxes": limits.max_boxes,
        "mask_threshold": getattr(limits, "mask_threshold", None),
        "opset": OPSET,
    }


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``480x640`` as (480, 640), height first; None for None. Raises `UserError` for anything else."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and _STRIDE <= int(part) <= 8192 for part in parts):
        raise UserError(f"wanted a size such as 480x640, height first, each {_STRIDE} to 8192, found {text[:40]!r}")
    return int(parts[0]), int(parts[1])


def _rounded_up(side: int) -> int:
    return -(-side // _STRIDE) * _STRIDE


def _example(frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A batch of three drawn photos, two of them smaller than the frame."""
    height, width = frame
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    photo = torch.stack([(rows + columns) % 256, (3 * rows) % 256 + 0 * columns, (2 * columns) % 256 + 0 * rows])
    photo[:, height // 4 : height // 2, width // 4 : width // 2] = torch.tensor([220, 40, 40])[:, None, None]
    images = torch.stack([photo, photo.flip(-1), photo.flip(-2)]).to(torch.uint8)
    smaller = [[height, width], [max(height * 3 // 4, 1), width], [height, max(width * 2 // 3, 1)]]
    return images, torch.tensor(smaller)


def _program(network: FixedNetwork, example: tuple[Tensor, Tensor]) -> torch.export.ExportedProgram:
    """The network as a program for any number of photos."""
    batch = {0: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # exporters warn of their own parts
        return torch.export.export(network, example, dynamic_shapes=(batch, batch), strict=False)


def _save_onnx(program: torch.export.ExportedProgram, network: FixedNetwork, path: Path) -> None:
    """Translate the program, and write it with its weights in one file."""
    loud = logging.getLogger("onnxscript"), logging.getLogger("torch.onnx")
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            translated = torch.onnx.export(
                program,
                input_names=["images", "sizes"],
                output_names=list(network.output_names),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: "batch"}, {0: "batch"}),
                custom_translation_table=translations(),
                verbose=False,
            )
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)
    assert translated is not None
    with atomic_file(path) as temporary:
        translated.save(temporary, external_data=False)


def _shown(photo: np.ndarray, about: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A photo in the frame as a batch of one, and its size there."""
    model = onnx_runner.Model.__new__(onnx_runner.Model)
    model.about = dict(about)
    height, width = model.shown_size(photo.shape[:2])
    batch = np.zeros((1, 3, about["height"], about["width"]), np.uint8)
    batch[0, :, :height, :width] = onnx_runner.resized(photo, (height, width)).transpose(2, 0, 1)
    return torch.from_numpy(batch), torch.tensor([[height, width]])


class _Runner:
    """Runs the exported file on a batch."""

    def __init__(self, folder: Path, path: Path, format: Format) -> None:
        self.format = format
        self.model = onnx_runner.Model(folder) if format == "onnx" else torch.export.load(path).module()

    def __call__(self, images: Tensor, sizes: Tensor) -> list[np.ndarray]:
        """The outputs in order."""
        if isinstance(self.model, onnx_runner.Model):
            return list(self.model.run(images.numpy(), sizes.numpy()).values())
        with torch.inference_mode():
            return [values.numpy() for values in self.model(images, sizes)]


def _runner(folder: Path, path: Path, about: Mapping[str, Any], format: Format) -> _Runner:
    assert json.loads((folder / "model.json").read_text(encoding="utf-8")) == json.loads(json.dumps(dict(about)))
    return _Runner(folder, path, format)


def measured_parity(network: FixedNetwork, runner: _Runner, batches: Sequence[tuple[Tensor, Tensor]]) -> Parity:
    """Compare ``runner`` with ``network`` on every photo of ``batches``."""
    worst = {"box": 0.0, "score": 0.0, "mask": 0.0}
    unpaired, num_photos = 0, 0
    for images, sizes in batches:
        with torch.inference_mode():
            wanted = [values.numpy() for values in network(images, sizes)]
        answers = runner(images, sizes)
        for photo in range(len(images)):
            differences, lonely = compared([v[photo] for v in wanted], [v[photo] for v in answers])
            worst = {name: max(value, differences[name]) for name, value in worst.items()}
            unpaired, num_photos = unpaired + lonely, num_photos + 1
    return Parity(num_photos, worst["box"], worst["score"], worst["mask"], unpaired)


def compared(wanted: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> tuple[dict[str, float], int]:
    """Largest differences of the best 100 detections of one photo, and how many of these have no partner.

    Each holds boxes (K, 4), scores (K,), labels (K,) and maybe masks (K, ...). A detection's partner has its class and,
    of those, the nearest score and corners.
    """
    differences = {"box": 0.0, "score": 0.0, "mask": 0.0}
    rows = [row for row in range(min(len(wanted[1]), _COMPARED)) if wanted[1][row] > 0]
    free = {row for row in range(len(answers[1])) if answers[1][row] > 0}
    unpaired = 0
    for row in rows:
        same = [other for other in free if answers[2][other] == wanted[2][row]]
        if not same:
            unpaired += 1
            continue
        of_box = np.abs(answers[0][same] - wanted[0][row]).max(axis=1)
        of_score = np.abs(answers[1][same] - wanted[1][row])
        best = int((of_box + 100 * of_score).argmin())
        free.discard(same[best])
        differences["box"] = max(differences["box"], float(of_box[best]))
        differences["score"] = max(differences["score"], float(of_score[best]))
        if len(wanted) > 3:
            of_mask = float(np.abs(answers[3][same[best]] - wanted[3][row]).max())
            differences["mask"] = max(differences["mask"], of_mask)
    return differences, unpaired
