"""DINO through the retrain stage: resume bit for bit, query drop in the history, first weights, merged views."""

from pathlib import Path

import pytest
import torch

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE, Stopped, draw_squares, stopped_after_first_epoch, training_history
from weaksam.config import UserError, load_settings
from weaksam.engine.detectors.detecting import detect_photo
from weaksam.engine.detectors.photos import load_scales
from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.query.query_drop import QueryDropSettings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings, run
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.boxes import pairwise_iou

TINY = DinoRetrainSettings(
    short_side=64,
    long_side=96,
    embed_dims=32,
    num_heads=4,
    ffn_dims=32,
    norm_groups=8,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=15,
    num_denoising=10,
    num_epochs=2,
    batch_size=2,
    warmup_steps=2,
    smallest_scale=0.9,
    min_score=0.0,
    max_boxes=20,
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def context(out, dataset, seed=0, backbone=UNTRAINED_BACKBONE):
    log = RunLog(out / "log.jsonl")
    return helpers.context(out, dataset, seed, test=dataset, backbone=backbone, log=log)


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def changed(**values: object) -> DinoRetrainSettings:
    return TINY.model_copy(update=values)


@pytest.mark.slow
def test_the_run_is_the_same_bytes_resumed_or_not_and_other_seeds_differ(tmp_path, squares):
    drop = QueryDropSettings(gate="class", class_limit=0.5, start_step=4)
    settings = changed(query_drop=drop, weight_average=0.9)
    first = run(context(tmp_path / "a", squares), settings, truth_of(squares))
    killed = context(tmp_path / "b", squares)
    with pytest.raises(Stopped):
        run(stopped_after_first_epoch(killed), settings, truth_of(squares))
    second = run(killed, settings, truth_of(squares))
    assert first.weights.read_bytes() == second.weights.read_bytes()
    files = [tmp_path / out / "retrain" / "detections_test.json" for out in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = run(context(tmp_path / "c", squares, seed=1), changed(num_epochs=1), truth_of(squares))
    assert other.weights.read_bytes() != first.weights.read_bytes()
    # Three steps an epoch: queries leave in the last two steps of six
    history = training_history(first.weights.parent)
    assert [epoch["dropped_class"] > 0 for epoch in history] == [False, True]
    assert {"loss_class", "loss_auxiliary", "loss_encoder", "loss_denoising"} <= set(history[0])


def test_weights_keep_mmdets_names_and_other_test_settings_keep_the_weights(tmp_path, squares):
    settings = changed(num_epochs=1, detect_train=False)
    first = run(context(tmp_path, squares), settings, truth_of(squares))
    assert set(load_state(first.weights)) == set(build_dino(UNTRAINED_BACKBONE, TINY, 2).state_dict())
    fewer = run(context(tmp_path, squares), settings.model_copy(update={"max_boxes": 3}), truth_of(squares))
    assert fewer.weights == first.weights
    assert {len(boxes) for boxes in fewer.detections("test").values()} == {3}
    assert not (tmp_path / "retrain" / "detections_train.json").exists()


def test_training_learns(tmp_path, squares):
    plain = {"smallest_scale": 1.0, "largest_scale": 1.0, "colour_jitter": 0.0, "flip": False, "detect_train": False}
    settings = changed(num_epochs=6, lr=2e-3, **plain)
    result = run(context(tmp_path, squares), settings, truth_of(squares))
    sums = [sum(epoch.values()) for epoch in training_history(result.weights.parent)]
    assert sums[-1] < 0.8 * sums[0]


def test_views_are_merged_and_suppressed_and_a_single_one_is_not(squares):
    torch.manual_seed(0)
    model = build_dino(UNTRAINED_BACKBONE, TINY, 2)
    device = torch.device("cpu")
    sample = squares.samples[1]

    def detected(settings: DinoRetrainSettings, scales: tuple[float, ...]) -> tuple[int, float]:
        """Number of detections, and the largest IoU between two of the same class."""
        photos = load_scales(sample, settings.short_side, settings.long_side, scales)
        boxes = detect_photo(model, photos, settings, device)
        overlaps = pairwise_iou(boxes.boxes, boxes.boxes) * (boxes.labels[:, None] == boxes.labels)
        return len(boxes), float(overlaps.fill_diagonal_(0).max())

    num, overlap = detected(changed(flip_test=False, nms_iou=0.01), (1.0,))
    assert num == 20 and overlap > 0.02
    num, overlap = detected(changed(flip_test=True, nms_iou=0.01), (0.8, 1.2))
    assert 10 < num <= 20 and overlap <= 0.01  # of 4 x 20
    boxes = model.eval()([torch.rand(3, 64, 96)])[0]
    assert boxes["boxes"].shape == (20, 4) and set(boxes["labels"].tolist()) <= {1, 2}
    assert bool((boxes["scores"][:-1] >= boxes["scores"][1:]).all())


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "vgg16", "sam_nano"])
def test_every_backbone_with_four_and_five_levels(name):
    for num_levels in (4, 5):
        backbone = BackboneSettings(name=name, weights="imagenet" if name == "sam_nano" else "none")
        model = build_dino(backbone, changed(num_levels=num_levels, trainable_layers=2), 2).eval()
        levels = model.neck(model.backbone(torch.rand(1, 3, 64, 96)))
        first = 4 if num_levels == 5 else 8
        assert [level.shape[3] for level in levels] == [-(-96 // first // 2**number) for number in range(num_levels)]
        frozen = {key.split(".")[2] for key, p in model.named_parameters() if "body" in key and not p.requires_grad}
        assert frozen and len(model([torch.rand(3, 64, 90)])[0]["boxes"]) == 20


def saved(path: Path, num_classes: int = 2, **changes: object) -> Path:
    """Weights of an untrained detector."""
    torch.manual_seed(9)
    save_weights(path, build_dino(UNTRAINED_BACKBONE, changed(**changes), num_classes).state_dict())
    return path


def test_first_weights_of_another_class_count_or_size_or_network(tmp_path, squares):
    still = {"num_epochs": 1, "lr": 1e-12, "weight_decay": 0.0, "detect_train": False}
    other = saved(tmp_path / "three.safetensors", num_classes=3)
    with pytest.raises(UserError, match=r"wants a detector of 2 classes.*, found one of 3 .*new_classes=true"):
        run(context(tmp_path / "a", squares), changed(init=other, **still), truth_of(squares))
    result = run(context(tmp_path / "b", squares), changed(init=other, new_classes=True, **still), truth_of(squares))
    state, given = load_state(result.weights), load_state(other)
    torch.testing.assert_close(state["query_embedding.weight"], given["query_embedding.weight"])
    assert state["bbox_head.cls_branches.0.weight"].shape == (2, 32)
    small = saved(tmp_path / "small.safetensors", num_queries=7, decoder_layers=1)
    with pytest.raises(
        UserError, match=r"found one of num_queries=7, decoder_layers=1: .* retrain\.num_queries=7"
    ) as caught:
        run(context(tmp_path / "c", squares), changed(init=small, **still), truth_of(squares))
    assert "\n" not in str(caught.value)
    save_weights(tmp_path / "faster.safetensors", {"roi_heads.box_head.fc6.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="wants the weights of DINO, found those of another network"):
        run(context(tmp_path / "d", squares), changed(init=tmp_path / "faster.safetensors", **still), truth_of(squares))
    with pytest.raises(UserError, match="a detector with queries, such as DINO"):
        run(context(tmp_path / "e", squares), RetrainSettings(init=other), truth_of(squares))


def test_weights_that_are_no_numbers_are_one_sentence(tmp_path, squares):
    path = saved(tmp_path / "broken.safetensors")
    state = load_state(path)
    state["level_embed"][0, 0] = torch.nan
    save_weights(path, state)
    with pytest.raises(UserError, match="wants finite weights, found NaN or infinity in 'level_embed'"):
        run(context(tmp_path, squares), changed(init=path), truth_of(squares))


def test_a_published_file_in_mmdets_names_wants_resnet50(tmp_path, squares):
    torch.manual_seed(0)
    resnet = BackboneSettings(name="resnet50", weights="none")
    state = build_dino(resnet, TINY, 2).state_dict()
    stages = {"0.0": "conv1", "0.1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    named = {}
    for key, value in state.items():
        for ours, theirs in stages.items():
            if key.startswith(f"backbone.body.{ours}."):
                key = f"backbone.{theirs}.{key.removeprefix(f'backbone.body.{ours}.')}"
        named[key] = value
    torch.save({"meta": {"epoch": 12}, "state_dict": named}, tmp_path / "dino.pth")
    settings = changed(init=tmp_path / "dino.pth", num_epochs=1, lr=1e-12, weight_decay=0.0, detect_train=False)
    with pytest.raises(
        UserError, match=r"is a detector with resnet50, found mobilenet_v2: set retrain\.backbone\.name"
    ):
        run(context(tmp_path / "a", squares), settings, truth_of(squares))
    result = run(context(tmp_path / "b", squares, backbone=resnet), settings, truth_of(squares))
    trained = load_state(result.weights)
    for key in ("backbone.body.7.2.conv3.weight", "backbone.body.4.0.bn1.running_var", "decoder.norm.weight"):
        torch.testing.assert_close(trained[key], state[key])


def test_the_detector_is_chosen_by_name_and_settings_of_the_other_are_named():
    assert isinstance(load_settings(RunSettings, None, ["retrain=dino"]).retrain, DinoRetrainSettings)
    chosen = load_settings(RunSettings, None, ["retrain.detector=dino", "retrain.num_queries=30"]).retrain
    assert isinstance(chosen, DinoRetrainSettings) and chosen.num_queries == 30
    assert type(load_settings(RunSettings, None, []).retrain) is RetrainSettings
    with pytest.raises(UserError, match=r"'retrain\.num_queries' belongs to retrain=dino, found retrain=faster_rcnn"):
        load_settings(RunSettings, None, ["retrain.num_queries=30"])
    with pytest.raises(UserError, match="num_heads must divide embed_dims, found 5 and 128"):
        load_settings(RunSettings, None, ["retrain.detector=dino", "retrain.num_heads=5"])
    with pytest.raises(UserError, match="norm_groups must be less than embed_dims, found 128 for both"):
        load_settings(RunSettings, None, ["retrain.detector=dino", "retrain.norm_groups=128"])


def test_half_precision_trains(tmp_path, squares):
    settings = changed(num_epochs=1, precision="bfloat16", detect_train=False)
    result = run(context(tmp_path, squares), settings, truth_of(squares))
    (epoch,) = training_history(result.weights.parent)
    assert all(0 <= value < 100 for value in epoch.values())
