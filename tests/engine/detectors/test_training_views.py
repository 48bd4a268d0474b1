"""Training on fixed views ends with the same weights whether frozen maps are kept, made anew, or not made at all."""

import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE, draw_squares
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.training import detector_objective, frozen_stages
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.stages.retrain import RetrainSettings

SETTINGS = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    batch_size=2,
    smallest_scale=0.95,  # all views of a batch have one padded size
    largest_scale=1,
    fixed_views=2,
)
CPU = torch.device("cpu")


def trained(squares, max_cache_gib: float, with_maps: bool) -> dict[str, torch.Tensor]:
    """The weights after four epochs."""
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, len(squares.classes)).train()
    truth = {sample.image_id: sample.truth for sample in squares}
    frozen = frozen_stages(model, SETTINGS, CPU) if with_maps else None
    photos = TrainingPhotos(squares, truth, 64, 96, "test", max_cache_gib, frozen=frozen)
    objective = detector_objective(model, SETTINGS, CPU)
    for epoch in range(4):
        for batch in photos.epoch(epoch, SETTINGS.batch_size, SETTINGS, seed=0):
            assert bool(batch.sizes) is with_maps
            model.zero_grad(set_to_none=True)
            torch.stack(list(objective.losses(batch).values())).sum().backward()
            objective.optimizer.step()
    return model.state_dict()


def test_weights_with_and_without_kept_maps(tmp_path):
    squares = draw_squares(tmp_path)
    kept, anew, neither = (trained(squares, *way) for way in ((4.0, True), (0.0, True), (4.0, False)))
    start = build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, 2).state_dict()
    name = "backbone.fpn.layer_blocks.0.0.weight"
    assert not torch.equal(kept[name], start[name])
    assert all(torch.equal(value, anew[key]) for key, value in kept.items())
    for key, value in kept.items():
        assert (value - neither[key]).norm() <= 1e-3 * neither[key].norm() + 1e-6, key


def test_where_nothing_can_be_kept():
    model = build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, 2)
    assert frozen_stages(model, SETTINGS.model_copy(update={"fixed_views": None}), CPU) is None
    assert frozen_stages(model, SETTINGS, CPU) is not None
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(True)
    assert frozen_stages(model, SETTINGS, CPU) is None


@pytest.mark.parametrize("value", [0, -1])
def test_no_view_at_all_is_refused(value):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        RetrainSettings(fixed_views=value)
