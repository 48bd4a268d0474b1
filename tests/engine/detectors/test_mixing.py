"""Objects pasted onto other photos and four photos in one: pixels, boxes, what is ignored, and draws by photo."""

from dataclasses import replace

import pytest
import torch

from tests import helpers
from tests.helpers import draw_squares, instances, proposal_store
from weaksam.config import UserError, fingerprint_of
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.copy_paste import (
    NO_COPY_PASTE,
    CopyPasteSettings,
    CutOuts,
    PastedObject,
    pasted,
    photos_to_cut,
    resized_cut_out,
    uncovered,
    with_pasted,
)
from weaksam.engine.detectors.frames import PhotoFrame
from weaksam.engine.detectors.mixing import Mixing, MixingSettings, PhotoMixer
from weaksam.engine.detectors.mosaic import MosaicSettings, mosaic
from weaksam.engine.pseudo_masks import make_pseudo_masks
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings
from weaksam.stages.retrain.mixing import PROMPTING, mixing_of
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_mask, mask_from_rle, rle_from_mask
from weaksam.structures.proposals import Proposals

PLAIN = AugmentSettings(flip=False, smallest_scale=1, largest_scale=1, colour_jitter=0)
HARD = {"probability": 1.0, "border": 0.0, "onto": "any"}


def frame(size=(64, 96), objects=None, tags=(True, False), value=0, **regions) -> PhotoFrame:
    image = torch.full((3, *size), value, dtype=torch.uint8)
    objects = instances([], []) if objects is None else objects
    return PhotoFrame(size, lambda: image, objects, regions, torch.tensor(tags))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_boxes_shrink_to_what_is_seen_or_are_ignored_or_go():
    boxes = [[0.5, 0, 10, 10], [0, 20, 10, 30], [20, 20, 26, 26], [30, 0.25, 36, 6.5], [4, 4, 8, 8]]
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[0:10, 0:4] = True  # 0.4 of the first box, all of its left side
    mask[20:26, 0:10] = True  # 0.6 of the second
    mask[20:26, 20:26] = True  # the third
    mask[5, 6] = True  # a pixel within the last, as a whole column of none
    left = uncovered(instances(boxes), mask, 0.5)
    assert left.boxes.tolist() == [[4, 0, 10, 10], [0, 26, 10, 30], [30, 0.25, 36, 6.5], [4, 4, 8, 8]]
    assert left.crowd.tolist() == [False, True, False, False]
    far = instances([[30.125, 0.25, 36, 6.5]])
    assert uncovered(far, mask, 0.5) is far
    marked = uncovered(instances([[0, 0, 10, 10]], crowd=[True]), mask, 0.5)
    assert marked.crowd.tolist() == [True] and marked.boxes.tolist() == [[4, 0, 10, 10]]
    assert len(uncovered(instances([]), mask, 0.5)) == 0


def test_a_cut_out_is_resized_within_limits_and_its_box_is_that_of_its_mask():
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[0, 10:20, 10:30] = 200
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[10:20, 10:30] = True
    limits = CopyPasteSettings(smallest_scale=2, largest_scale=2, largest_share=1)
    # Factor 2, not mirrored, the last place of 100 x 100: 20 x 40 pixels
    new = resized_cut_out(image, mask, 1, torch.tensor([0.3, 0.9, 0.9999, 0.9999]), (100, 100), limits)
    assert new.box.tolist() == [60, 80, 100, 100] and new.label == 1 and bool(new.mask.all())
    assert new.pixels[0].unique().tolist() == [200] and new.pixels[1].unique().tolist() == [0]
    small = replace_settings(limits, largest_share=0.25)  # 25 of 100 pixels wide, not 40
    assert resized_cut_out(image, mask, 1, torch.zeros(4), (100, 100), small).mask.shape == (12, 25)
    large = CopyPasteSettings(smallest_scale=0.1, largest_scale=0.1, smallest_side=10)
    assert resized_cut_out(image, mask, 1, torch.zeros(4), (100, 100), large).mask.shape == (5, 10)
    assert resized_cut_out(image, torch.zeros_like(mask), 1, torch.zeros(4), (100, 100), large) is None
    round_mask = mask.clone()
    round_mask[10, 10:30] = False  # mirrored or not, the box is tight
    new = resized_cut_out(image, round_mask, 0, torch.tensor([0.0, 0.0, 0.0, 0.0]), (100, 100), limits)
    assert new.box.tolist() == [0, 0, 40, 18]


def replace_settings(settings, **values):
    return settings.model_copy(update=values)


def test_pixels_change_where_the_object_is_and_fade_at_its_border():
    image = torch.full((3, 30, 30), 100, dtype=torch.uint8)
    mask = torch.ones(10, 10, dtype=torch.bool)
    mask[:, 5:] = False
    new = PastedObject(torch.full((3, 10, 10), 200.0), mask, 0, (10, 10))
    hard = pasted(image, new, 0.0)
    assert bool((image == 100).all())
    assert bool((hard[:, 10:20, 10:15] == 200).all()) and int((hard == 200).sum()) == 3 * 50
    soft = pasted(image, new, 1.0)
    assert bool((soft[:, 14:16, 12] > 190).all()) and bool((soft[:, 14, 14:17] < 190).all())
    assert 100 < int(soft[0, 14, 15]) < int(soft[0, 14, 14]) < 200
    assert torch.equal(soft[:, :10], image[:, :10]) and torch.equal(soft[:, :, 20:], image[:, :, 20:])


def square_cut_out(number: int, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:25, 5:25] = True
    return torch.full((3, 40, 40), 255, dtype=torch.uint8), mask


def test_only_classes_that_are_no_tags_are_pasted_and_tags_stay():
    settings = CopyPasteSettings(**HARD, most_objects=2, smallest_scale=1, largest_scale=1)
    classes = {0: [(0, 0)], 1: [(1, 0), (2, 0)]}
    counts = set()
    for seed in range(8):
        mixed = with_pasted(frame(), classes, square_cut_out, settings, generator(seed))
        counts.add(len(mixed.instances))
        assert set(mixed.instances.labels.tolist()) == {1} and mixed.tags.tolist() == [True, False]
        white = mixed.read()[0] == 255
        last = mixed.instances.boxes[-1].int().tolist()
        assert last[2] - last[0] == 20 and bool(white[last[1] : last[3], last[0] : last[2]].all())
    assert counts == {1, 2}
    both = frame(tags=(True, True))
    assert with_pasted(both, classes, square_cut_out, settings, generator()) is both
    rare = with_pasted(frame(), classes, square_cut_out, replace_settings(settings, probability=0.0), generator())
    assert len(rare.instances) == 0
    assert len(with_pasted(frame(), {}, square_cut_out, settings, generator()).instances) == 0


def test_photos_without_tags_come_first():
    def mixer(onto: str, tagged: list[bool]) -> PhotoMixer:
        settings = MixingSettings(copy_paste={**HARD, "onto": onto})
        return PhotoMixer(settings, lambda number: frame(), [str(i) for i in range(len(tagged))], tagged, [])

    assert mixer("auto", [True, False]).gets_objects == [False, True]
    assert mixer("auto", [True, True]).gets_objects == [True, True]
    assert mixer("any", [True, False]).gets_objects == [True, True]
    assert mixer("untagged", [True, True]).gets_objects == [False, False]


def test_four_photos_fill_their_quarters_with_all_that_lies_on_them():
    objects = instances([[10, 20, 30, 40], [0, 0, 96, 64]], [1, 0], crowd=[False, True])
    doubtful = instances([[40, 20, 60, 40]], [1])
    frames = [frame(value=10 * number, tags=(number == 3, False), doubtful=instances([], [])) for number in range(4)]
    frames[3] = replace(frames[3], instances=objects, regions={"doubtful": doubtful})
    mixed = mosaic(frames, MosaicSettings(probability=1, nearest=0.5), generator())
    image = mixed.read()
    assert image.shape == (3, 64, 96)
    assert [int(image[0, y, x]) for y in (31, 32) for x in (47, 48)] == [0, 10, 20, 30]
    # Half the size, 48 pixels to the right and 32 down
    assert mixed.instances.boxes.tolist() == [[53, 42, 63, 52], [48, 32, 96, 64]]
    assert mixed.instances.labels.tolist() == [1, 0] and mixed.instances.crowd.tolist() == [False, True]
    assert mixed.regions["doubtful"].boxes.tolist() == [[68, 42, 78, 52]]
    assert mixed.tags.tolist() == [True, False]
    empty = mosaic([frame()] * 4, MosaicSettings(), generator())
    assert len(empty.instances) == 0


def test_a_box_that_a_quarter_cuts_in_half_is_ignored_and_agrees_with_its_pixels():
    # Each photo has an object of its own colour; in the mosaic the box is that of its pixels
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    ignored = 0
    for seed in range(20):
        frames = []
        for number, size in enumerate([(64, 96), (96, 64), (96, 64), (64, 96)]):
            image = torch.zeros(3, *size, dtype=torch.uint8)
            image[:, 4:28, 8:40] = colours[number][:, None, None]
            photo = frame(size, instances([[8, 4, 40, 28]], [number]))
            frames.append(replace(photo, read=lambda image=image: image))
        mixed = mosaic(frames, MosaicSettings(min_visible=0.8), generator(seed))
        pixels = mixed.read() > 127
        for box, number in zip(mixed.instances.boxes, mixed.instances.labels.tolist(), strict=True):
            y, x = (pixels == (colours[number] > 127)[:, None, None]).all(dim=0).nonzero().unbind(1)
            if len(x) and float((box[2:] - box[:2]).min()) >= 3:  # else a sliver
                seen = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
                assert float((seen - box).abs().max()) <= 1.5
        ignored += 0 if mixed.instances.crowd is None else int(mixed.instances.crowd.sum())
    assert 0 < ignored < 40


def cut_outs_of(squares) -> CutOuts:
    """Every true square with itself as mask."""
    return CutOuts(
        "squares",
        {
            sample.image_id: sample.truth.replace(
                masks=tuple(rle_from_mask(box_mask(box, sample.size)) for box in sample.truth.boxes)
            )
            for sample in squares
        },
    )


def batches_of(squares, mixing, memory=4.0):
    truth = {sample.image_id: sample.truth for sample in squares}
    photos = TrainingPhotos(squares, truth, 64, 96, "test", memory, mixing=mixing)
    return list(photos.epoch(1, 2, AugmentSettings(smallest_scale=0.9), seed=0))


def same(batches, others) -> bool:
    return all(
        all(map(torch.equal, batch.images, other.images))
        and all(map(torch.equal, *([t["boxes"] for t in b.targets] for b in (batch, other))))
        for batch, other in zip(batches, others, strict=True)
    )


def test_without_mixing_no_batch_changes_and_mixed_ones_follow_from_the_seed_alone(tmp_path):
    squares = draw_squares(tmp_path)
    cut_outs = cut_outs_of(squares)
    plain = batches_of(squares, None)
    assert same(plain, batches_of(squares, Mixing(MixingSettings(copy_paste=NO_COPY_PASTE), cut_outs)))
    both = MixingSettings(copy_paste=HARD, mosaic={"probability": 0.5})
    mixed = batches_of(squares, Mixing(both, cut_outs))
    assert not same(plain, mixed)
    assert same(mixed, batches_of(squares, Mixing(both, cut_outs), memory=0.0))
    for kind in (RetrainSettings, DinoRetrainSettings):
        before = {name: getattr(kind(), name) for name in kind.model_fields if name not in MixingSettings.model_fields}
        assert not {"copy_paste", "mosaic"} & set(before)
        assert fingerprint_of(kind()) != fingerprint_of(kind(mosaic={"probability": 0.1}))
    assert fingerprint_of(DinoRetrainSettings()) == fingerprint_of(DinoRetrainSettings(copy_paste={"probability": 0}))
    assert fingerprint_of(RetrainSettings()) == fingerprint_of(RetrainSettings(copy_paste={"probability": 0.5}))
    assert fingerprint_of(RetrainSettings()) != fingerprint_of(RetrainSettings(copy_paste={"probability": 0}))


def test_pasted_squares_lie_where_their_boxes_say(tmp_path):
    squares = draw_squares(tmp_path)
    settings = MixingSettings(copy_paste={**HARD, "smallest_scale": 1, "largest_scale": 1})
    truth = {sample.image_id: sample.truth for sample in squares}
    mixing = Mixing(settings, cut_outs_of(squares))
    photos = TrainingPhotos(squares, truth, 64, 96, "test", mixing=mixing)
    num = 0
    for batch in photos.epoch(0, 1, PLAIN, seed=0):
        (target,), (image,) = batch.targets, batch.images
        for box, label in zip(target["boxes"].round().int().tolist(), target["labels"].tolist(), strict=True):
            inside = image[:, box[1] + 1 : box[3] - 1, box[0] + 1 : box[2] - 1].flatten(1).median(dim=1).values
            assert int(inside.argmax()) == (0 if label == 1 else 2)
            num += label == 2 and not bool(target["tags"][1])
    assert num >= 3  # three photos without blue, some with several


def test_cut_outs_are_whole_objects_of_good_masks(tmp_path):
    squares = draw_squares(tmp_path)
    context = helpers.context(tmp_path / "out", squares)
    sizes = {sample.image_id: sample.size for sample in squares}
    truth = {sample.image_id: Instances(sample.truth.boxes, sample.truth.labels) for sample in squares}
    masks = make_pseudo_masks(context, PROMPTING, RegionTreeSegmenter(), truth, "retrain")
    cut_outs = CutOuts.of_masks(masks, sizes, CopyPasteSettings(min_quality=0.5))
    assert 0 < cut_outs.count() <= 7 and len(cut_outs.objects["5.png"]) == 0
    assert CutOuts.of_masks(masks, sizes, CopyPasteSettings(min_quality=1.0)).count() < cut_outs.count()
    touching = {"0.png": instances([[0, 6, 30, 32]], [0])}
    masks = make_pseudo_masks(context, PROMPTING, RegionTreeSegmenter(), touching, "retrain")
    assert CutOuts.of_masks(masks, sizes, CopyPasteSettings(min_quality=0)).count() == 0


def test_of_each_box_the_proposal_that_agrees_best_is_cut_out(tmp_path):
    """Photo of 40 x 80 with masks in a frame of half its size; scores times IoU: 0.9 x 0.5, 0.8 x 1, 1 x 0.25."""
    boxes = torch.tensor([[10.0, 10, 20, 30], [10, 10, 30, 30], [10, 10, 20, 20]])
    frames = tuple(rle_from_mask(box_mask(box / 2, (20, 40))) for box in boxes)
    of_photo = Proposals(boxes, torch.tensor([0.9, 0.8, 1.0]), torch.zeros(3, dtype=torch.int64), frames, (20, 40))
    bare = Proposals.of(boxes)
    store = proposal_store(tmp_path, {"a": of_photo, "bare": bare, "b": of_photo, "none": Proposals.none()})
    sizes = dict.fromkeys(["a", "bare", "b", "none"], (40, 80))
    whole, cut = [10.0, 10, 30, 30], [0.0, 10, 30, 30]
    pseudo_gt = {image_id: instances([whole, cut], [1, 0]) for image_id in ("a", "bare", "none")}
    cut_outs = CutOuts.of_proposals(store, pseudo_gt, sizes, CopyPasteSettings(min_quality=0.8))
    assert set(cut_outs.objects) == {"a"} and cut_outs.count() == 1
    (mask,) = cut_outs.objects["a"].masks
    assert cut_outs.objects["a"].labels.tolist() == [1] and torch.equal(mask_from_rle(mask), mask_from_rle(frames[1]))
    assert CutOuts.of_proposals(store, pseudo_gt, sizes, CopyPasteSettings(min_quality=0.81)).count() == 0
    moved = {"a": instances([[11.0, 10, 30, 30]], [1])}
    other = CutOuts.of_proposals(store, moved, sizes, CopyPasteSettings())
    assert other.count() == 1 and other.fingerprint != cut_outs.fingerprint


def test_of_many_boxes_some_photos_are_cut_as_the_seed_draws_them():
    pseudo_gt = {f"{number:02d}": instances([[0, 0, 9, 9]] * 2, [0, 1]) for number in range(20)}
    assert photos_to_cut(pseudo_gt, 40, 0) == pseudo_gt
    few = photos_to_cut(pseudo_gt, 9, 0)
    assert len(few) == 5 and list(few) == sorted(few) and list(photos_to_cut(pseudo_gt, 9, 0)) == list(few)
    assert list(photos_to_cut(pseudo_gt, 9, 1)) != list(few)
    assert photos_to_cut({}, 1, 0) == {}


def test_what_copy_paste_wants_is_one_sentence(tmp_path, capsys):
    squares = draw_squares(tmp_path)
    context = helpers.context(tmp_path / "out", squares)
    truth = {sample.image_id: sample.truth for sample in squares}
    assert mixing_of(context, RetrainSettings(copy_paste={"probability": 0}), truth, None, None, "x") == (None, {})
    mixing, inputs = mixing_of(
        context, RetrainSettings(copy_paste={"probability": 0}, mosaic={"probability": 1}), truth, None, None, "retrain"
    )
    assert mixing.cut_outs is None and inputs == {}
    settings = RetrainSettings(copy_paste={"probability": 1})
    assert mixing_of(context, settings, truth, None, None, "retrain") == (None, {})
    assert "no proposals to cut objects out by" in capsys.readouterr().err
    for values, words in (
        ({"onto": "any", "masks": "segmenter"}, "wants a segmenter"),
        ({"onto": "untagged"}, "without tags"),
    ):
        settings = RetrainSettings(copy_paste={"probability": 1, **values})
        with pytest.raises(UserError, match=words) as caught:
            mixing_of(context, settings, truth, None, None, "retrain")
        assert "\n" not in str(caught.value)
