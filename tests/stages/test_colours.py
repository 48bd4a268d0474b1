"""A red photo as the first layer of every stage's network sees it: in the colours of the backbone's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2

from tests.helpers import context, instances
from weaksam.engine.context import RunContext
from weaksam.models.backbones.colours import CaffeColours
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import DetectorSettings, build_faster_rcnn, detect
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.stages import clues, retrain
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import make_example
from weaksam.stages.wsod.photo_features import unread_features
from weaksam.stages.wsod.settings import WsodSettings
from weaksam.structures.dataset import Dataset, Sample

RED = {"imagenet": ((1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225), "caffe": (-102.98, -115.95, 255 - 122.77)}
"""By hand: (2.25, -2.04, -1.80) as torchvision's weights want it, blue first as Caffe's do."""
WSOD = WsodSettings(
    seeds="oicr",
    hidden=16,
    roi_size=3,
    long_side=64,
    reduced=8,
    end_to_end=EndToEndSettings(short_sides=(64,), test_short_sides=(64,)),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """MobileNetV2's state dict, random: unlike ``none`` it is not calibrated on noise when it is built."""
    path = tmp_path_factory.mktemp("weights") / "network.pth"
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


@pytest.fixture(params=["imagenet", "caffe"])
def red_run(request, tmp_path: Path, weights: Path) -> tuple[RunContext, tuple[float, ...]]:
    """Two red photos of 64 x 64 with other tags, and the numbers that a red pixel must become."""
    samples = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((64, 64, 3), (255, 0, 0), dtype=np.uint8)).save(path)
        samples.append(Sample(path.name, path, (64, 64), (number,), None, number + 1))
    dataset = Dataset("red", ("a", "b"), (1, 2), tuple(samples), ())
    backbone = BackboneSettings(weights=str(weights), colours=request.param)
    return context(tmp_path / "out", dataset, backbone=backbone), RED[request.param]


@contextmanager
def pixels_seen() -> Iterator[set[tuple[float, ...]]]:
    """The different pixels that any first layer (a convolution of three channels) is given meanwhile, rounded."""
    seen: set[tuple[float, ...]] = set()

    def record(module: nn.Module, inputs: tuple) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            pixels = inputs[0].detach().float().permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
            seen.update(tuple(round(value, 1) for value in pixel) for pixel in pixels.tolist())

    hook = nn.modules.module.register_module_forward_pre_hook(record)
    try:
        yield seen
    finally:
        hook.remove()


def check(seen: set[tuple[float, ...]], red: tuple[float, ...]) -> None:
    """Only red and the padding, 0, were seen; float16 copies may round by a sixteenth."""
    assert seen and all(pixel == pytest.approx(red, abs=0.11) or pixel == (0, 0, 0) for pixel in seen)
    assert seen - {(0.0, 0.0, 0.0)}


def test_clues_and_the_training_of_the_backbone(red_run) -> None:
    run, red = red_run
    for settings in (ClueSettings(long_side=64), ClueSettings(long_side=64, finetune_epochs=1)):
        with pixels_seen() as seen:
            clues.run(run, settings, run.train, "train")
        check(seen, red)


def test_frozen_features_of_the_detector_and_of_relocation(red_run) -> None:
    run, red = red_run
    with pixels_seen() as seen:
        photos = unread_features(run, WSOD)
        photos.fit_projection(run.train, 8)
        photos.views(run.train.samples[0])
    check(seen, red)


def test_end_to_end_training_relocation_and_detecting(red_run) -> None:
    run, red = red_run
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 20, 60, 60]])
    detector = EndToEndDetector(run, WSOD)
    row = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8])}
    examples = [
        make_example(sample, row, tags, None, WSOD) for sample, tags in zip(run.train, torch.eye(2), strict=True)
    ]
    for batch in detector.batches(examples):
        with pixels_seen() as seen, torch.no_grad():
            for part in detector._parts(batch):
                detector.model(*detector._inputs(part))
        check(seen, red)
    for look in (lambda: detector.detect(run.train.samples[0], boxes), detector.frozen_features):
        with pixels_seen() as seen:
            look()
        check(seen, red)


def test_retrained_detector_training_and_detecting(red_run) -> None:
    run, red = red_run
    small = {"short_side": 64, "long_side": 64, "fpn_channels": 8, "representation": 8}
    settings = retrain.RetrainSettings(num_epochs=1, colour_jitter=0, **small)
    pseudo_gt = {sample.image_id: instances([[4, 4, 60, 60]]) for sample in run.train}
    with pixels_seen() as seen:
        retrain.run(run, settings, pseudo_gt)
    check(seen, red)


@pytest.mark.parametrize(
    ("build", "kind"), [(build_faster_rcnn, DetectorSettings), (build_mask_rcnn, MaskDetectorSettings)]
)
def test_both_detectors_of_whole_photos(red_run, build, kind) -> None:
    run, red = red_run
    model = build(run.backbone, kind(short_side=64, long_side=64, fpn_channels=8, representation=8), 2)
    photo = torch.zeros(3, 64, 64, dtype=torch.uint8)
    photo[0] = 255
    with pixels_seen() as seen:
        detect(model, [photo, photo.float() / 255])
    check(seen, red)


def test_another_network_of_the_clues_keeps_its_own_colours(red_run) -> None:
    """``clues.network`` is torchvision's, whatever the backbone's weights want."""
    run, _ = red_run
    with pixels_seen() as seen:
        clues.run(run, ClueSettings(long_side=64, network="squeezenet1_1", network_weights="none"), run.train, "train")
    check(seen - {(0.0, 0.0, 0.0)}, RED["imagenet"])


def test_caffes_colours_are_the_published_means() -> None:
    assert CaffeColours().mean == (122.77, 115.95, 102.98) and CaffeColours().order == "bgr"
