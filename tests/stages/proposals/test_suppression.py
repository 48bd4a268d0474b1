"""The named rules of the proposal stage one by one: kinds of prompts, suppression, sizes, rounding, full devices."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import block_photo, candidates, context
from weaksam.config import UserError
from weaksam.data.images import BadImage, read_image
from weaksam.data.loading import SplitSettings, load_photos
from weaksam.data.read_ahead import read_ahead
from weaksam.sam.batches import BatchLimit, encode_all, in_batches
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, choose_candidates, propose, run
from weaksam.stages.proposals.prompts import clue_prompts
from weaksam.stages.proposals.suppression import drop_equal_corners, filter_by_size, suppress_duplicates
from weaksam.structures.clue_points import COARSE, COARSE_JOINT, CROSS, FINE, FINE_JOINT, GRID, SOURCES, CluePoints

# The published example (docs/method.md, Proposals), its inclusive corners made half-open: IoU 0.96, 0.81, 0.84
GOLDEN = [[0, 0, 100, 100], [0, 0, 96, 100], [0, 0, 81, 100], [200, 200, 251, 251]]
ALL_KINDS = ("coarse", "fine", "cross")


def clues() -> CluePoints:
    """Coarse points of class 4 (three) and 2 (one), fine ones of class 2 (two), two of cross-attention."""
    points = torch.arange(16.0).reshape(8, 2)
    kinds = [COARSE, CROSS, COARSE, FINE, COARSE, FINE, CROSS, COARSE]
    return CluePoints(points, torch.tensor([4, -1, 2, 2, 4, 2, -1, 4]), torch.tensor(kinds))


def described(prompts) -> dict[int, tuple[int, list[list[float]]]]:
    """Source and points of each prompt by its place."""
    rows = {}
    for group in prompts:
        for points, source, place in zip(group.points, group.sources.tolist(), group.places.tolist(), strict=True):
            rows[place] = (source, [int(x) // 2 for x in points[:, 0]])  # the point's number
    return dict(sorted(rows.items()))


def test_points_prompt_alone_and_then_together_by_class():
    assert SOURCES[COARSE_JOINT] == "coarse joint" and SOURCES[GRID] == "grid"
    assert list(described(clue_prompts(clues(), ALL_KINDS, ("coarse", "fine"), False)).values()) == [
        (COARSE, [0]),
        (COARSE, [2]),
        (COARSE, [4]),
        (COARSE, [7]),
        (COARSE_JOINT, [0, 4, 7]),
        (FINE, [3]),
        (FINE, [5]),
        (FINE_JOINT, [3, 5]),
        (CROSS, [1]),
        (CROSS, [6]),
    ]


def test_kinds_and_joint_prompts_can_be_chosen():
    def sources(*arguments) -> list[int]:
        return [source for source, _ in described(clue_prompts(clues(), *arguments)).values()]

    assert sources(("fine",), ("coarse",), False) == [FINE, FINE]
    assert sources(("cross",), ("cross",), True) == [CROSS, CROSS]  # never joined
    # The published count: two for each class of coarse points, also the one with a single point
    assert sources(("coarse",), ("coarse",), True) == [COARSE] * 4 + [COARSE_JOINT] * 2
    assert clue_prompts(CluePoints.none(), ALL_KINDS, ALL_KINDS, True) == []


def test_class_less_points_of_any_kind_are_not_joined():
    points = CluePoints.of(torch.rand(3, 2), torch.tensor([-1, -1, 5]), COARSE)
    prompts = described(clue_prompts(points, ALL_KINDS, ALL_KINDS, True))
    assert [source for source, _ in prompts.values()] == [*[COARSE] * 3, COARSE_JOINT]


def test_proposals_do_not_depend_on_the_order_of_points_of_any_kind():
    points = torch.tensor([[60.0, 40], [120, 90], [50, 30], [35, 55], [110, 80], [62, 41]])
    labels, kinds = torch.tensor([1, 0, 1, 1, -1, -1]), torch.tensor([COARSE, FINE, COARSE, FINE, CROSS, CROSS])
    clues = CluePoints(points, labels, kinds)
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues)
    assert {COARSE_JOINT, CROSS, GRID} <= set(proposals.sources.tolist())
    reordered = propose(RegionTreeSegmenter(), block_photo(), clues.select(torch.tensor([4, 2, 0, 5, 3, 1])))
    assert torch.equal(proposals.boxes, reordered.boxes)
    assert torch.equal(proposals.sources, reordered.sources)
    assert proposals.rles == reordered.rles


def kept(order, **settings) -> list[list[float]]:
    regions = candidates([GOLDEN[i] for i in order], [0.5] * 4, [CROSS] * 4)
    return choose_candidates(regions, (300, 300), ProposalSettings(rules="original", **settings)).boxes.tolist()


def test_first_seen_suppression_gives_the_golden_values_and_depends_on_the_order():
    assert kept([0, 1, 2, 3]) == [GOLDEN[0], GOLDEN[2], GOLDEN[3]]
    assert kept([3, 2, 1, 0]) == [GOLDEN[3], GOLDEN[2], GOLDEN[1]]
    assert kept([3, 2, 1, 0], suppression="best_first") == kept([0, 1, 2, 3], suppression="best_first")


def test_suppression_starts_above_the_limit():
    regions = candidates([[0, 0, 100, 10], [0, 0, 90, 10]], [0.5, 0.5], [CROSS] * 2)  # IoU 0.9 to the pixel
    everything = torch.ones(2, dtype=torch.bool)
    assert len(suppress_duplicates(regions, everything, 0.9, "first_seen")) == 2
    assert len(suppress_duplicates(regions, everything, 0.899, "first_seen")) == 1


def test_only_cross_boxes_are_suppressed_where_that_is_set():
    sources = [GRID, COARSE, FINE_JOINT, CROSS, CROSS]
    regions = candidates([GOLDEN[0]] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], sources)
    original = choose_candidates(regions, (300, 300), ProposalSettings(rules="original"))
    assert original.sources.tolist() == [GRID, COARSE, FINE_JOINT, CROSS]
    assert original.rows.tolist() == [0, 1, 2, 3]
    ours = choose_candidates(regions, (300, 300), ProposalSettings())
    assert ours.rows.tolist() == [4] and ours.sources.tolist() == [FINE_JOINT]  # the highest it stands for


@pytest.mark.parametrize(
    ("rule", "fits"),
    [("none", [1, 2, 19, 20, 21]), ("oicr", [21]), ("mist_voc", [20, 21]), ("mist_coco", [2, 19, 20, 21])],
)
def test_size_rules_of_the_published_detectors(rule, fits):
    sides = [1, 2, 19, 20, 21]
    regions = candidates([[5, 5, 5 + side, 200] for side in sides], [0.5] * 5)
    left = filter_by_size(regions, (300, 300), ProposalSettings(size_rule=rule)).boxes
    assert (left[:, 2] - left[:, 0]).tolist() == fits


def test_rounding_drops_later_boxes_of_the_same_cell():
    # Inclusive corners: the second rounds to the first's cells of 8 pixels, the third does not
    boxes = [[16, 16, 65, 65], [19, 13, 62, 67], [16, 16, 70, 65], [16.4, 16, 65, 65.4]]
    regions = candidates(boxes, [0.5] * 4)
    assert drop_equal_corners(regions, "eighth").rows.tolist() == [0, 2]
    assert drop_equal_corners(regions, "pixel").rows.tolist() == [0, 1, 2]
    assert drop_equal_corners(regions, "none").rows.tolist() == [0, 1, 2, 3]


def test_rounding_does_not_collide_on_large_photos():
    # x1 + 1e3 y1 + 1e6 x2 + 1e9 y2 of the original is the same for both
    regions = candidates([[1000, 0, 1201, 1201], [0, 1, 1201, 1201]], [0.5, 0.5])
    assert len(drop_equal_corners(regions, "pixel")) == 2


def test_in_the_original_order_sizes_come_after_suppression():
    # The narrow box is seen first and stands for the wide one, then a detector finds it too narrow
    boxes, sources = [[0, 0, 20, 100], [0, 0, 21, 100]], [CROSS, CROSS]
    regions = candidates(boxes, [0.9, 0.8], sources)
    assert len(choose_candidates(regions, (300, 300), ProposalSettings(rules="original", size_rule="oicr"))) == 0
    assert choose_candidates(regions, (300, 300), ProposalSettings(size_rule="oicr")).boxes.tolist() == [boxes[1]]


# Batches, and devices that are full


class Small(RegionTreeSegmenter):
    """A segmenter on a device that has memory for ``room`` prompts and ``photos_room`` photos at a time."""

    def __init__(self, room: int, photos_room: int = 1) -> None:
        super().__init__()
        self.room, self.photos_room = room, photos_room
        self.answered: list[int] = []
        self.encoded: list[int] = []

    def predict(self, embedding, prompts, **others):
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.answered.append(len(prompts))
        return super().predict(embedding, prompts, **others)

    def encode_batch(self, images):
        if len(images) > self.photos_room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.encoded.append(len(images))
        return [self.encode(image) for image in images]


def test_a_full_device_gets_half_as_much_from_then_on():
    limit = BatchLimit(8, "prompts", (notes := []).append)

    def compute(part: slice) -> list[int]:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    assert list(in_batches(9, limit, compute)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert limit.size == 2
    assert notes == ["the device ran out of memory: 2 prompts at a time from here on"]
    assert list(in_batches(3, limit, compute)) == [[0, 1], [2]] and len(notes) == 1
    assert list(in_batches(0, limit, compute)) == []


def test_a_device_too_small_for_one_says_so():
    with pytest.raises(UserError, match="one of the photos at a time"):
        list(encode_all(Small(1, photos_room=0), [block_photo()] * 3, BatchLimit(4, "photos")))


def test_photos_are_encoded_in_batches_that_fit():
    segmenter, notes = Small(1, photos_room=2), []
    limit = BatchLimit(8, "photos", notes.append)
    photos = [block_photo(seed)[: 60 + seed] for seed in range(9)]
    assert [one.size for one in encode_all(segmenter, photos, limit)] == [(60 + seed, 160) for seed in range(9)]
    assert segmenter.encoded == [2, 2, 2, 2, 1] and len(notes) == 1


@pytest.fixture()
def dataset(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        Image.fromarray(block_photo(seed)[: 60 + 12 * seed]).save(folder / f"{seed}.png")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return load_photos(SplitSettings(images=folder), name="train")


def some_clues(image_id: str) -> CluePoints:
    return CluePoints.of(torch.tensor([[60.0, 40.0], [40.0, 30.0], [120.0, 50.0]]), torch.tensor([0, 0, 1]))


def test_a_full_device_changes_no_byte_of_the_store(dataset, tmp_path, capsys):
    grid = {"ask_for_regions": False, "grid_side": 4}

    def made(name: str, segmenter, **settings) -> bytes:
        store = run(
            context(tmp_path / name, dataset), ProposalSettings(**grid, **settings), segmenter, some_clues, dataset, "t"
        )
        assert any(len(row["boxes"]) for row in store.rows())
        return (store.folder / "part-00000.parquet").read_bytes()

    plain = made("plain", RegionTreeSegmenter())
    assert "memory" not in capsys.readouterr().err
    small = Small(room=5, photos_room=2)
    assert made("small", small, photos_at_once=4) == plain
    assert max(small.answered) == 4 and small.encoded == [2, 2, 1]
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert [line.split(": ")[-1] for line in said] == [
        "2 photos at a time from here on",
        "4 prompts at a time from here on",
    ]
    assert made("unthreaded", RegionTreeSegmenter(), read_ahead=0, batch_size=3) == plain


def test_what_changes_no_result_makes_no_other_store(dataset, tmp_path):
    def folder(**settings):
        arguments = RegionTreeSegmenter(), some_clues, dataset, "t"
        return run(context(tmp_path, dataset), ProposalSettings(**settings), *arguments).folder

    first = folder()
    assert folder(read_ahead=0, photos_at_once=3, batch_size=7) == first
    assert folder(rules="ours", nms_iou=0.9) == first
    original = folder(rules="original")
    assert original != first
    spelt_out = ProposalSettings(rules="original").model_dump() | {"rules": "ours"}
    assert folder(**spelt_out) == original


def test_a_column_of_the_store_is_read_by_image(dataset, tmp_path):
    store = run(context(tmp_path, dataset), ProposalSettings(), RegionTreeSegmenter(), some_clues, dataset, "t")
    boxes = store.column("boxes")
    assert list(boxes) == list(dataset.image_ids) and len(boxes) == 5
    assert all(torch.equal(boxes[row["image_id"]], row["boxes"]) for row in store.rows())
    with pytest.raises(KeyError):
        boxes["none.png"]


def test_photos_without_tags_are_a_dataset_without_classes(dataset):
    assert dataset.image_ids == tuple(f"{seed}.png" for seed in range(5))
    assert dataset.classes == () and {sample.tags for sample in dataset} == {()}
    assert [image_id for image_id, _ in dataset.bad] == ["cut.jpg"] and "truncated" in dataset.bad[0][1]
    assert dataset.samples[2].size == (84, 160) and dataset.samples[2].number == 3


# Reading ahead


@pytest.mark.parametrize("num_ahead", [0, 1, 3, 50])
def test_photos_come_in_order(dataset, num_ahead):
    paths = [sample.path for sample in dataset] * 3
    photos = list(read_ahead(paths, num_ahead))
    assert len(photos) == 15
    assert all(np.array_equal(photo, read_image(path)) for photo, path in zip(photos, paths, strict=True))
    assert list(read_ahead([], num_ahead)) == []


def test_no_more_photos_are_read_than_asked_for(dataset, tmp_path):
    paths = [sample.path for sample in dataset]
    missing = tmp_path / "missing.png"
    reading = read_ahead([*paths[:3], missing, *paths], 2)
    assert np.array_equal(next(reading), read_image(paths[0]))
    missing.write_bytes(paths[4].read_bytes())  # its turn has not come: it is the fourth, and three were begun
    assert np.array_equal([next(reading) for _ in range(3)][2], read_image(paths[4]))
    reading.close()


def test_a_photo_that_went_bad_stops_at_its_turn(dataset):
    paths = [sample.path for sample in dataset]
    paths[2].write_bytes(b"")
    reading = read_ahead(paths, 4)
    assert [next(reading).shape for _ in range(2)] == [(60, 160, 3), (72, 160, 3)]
    with pytest.raises(BadImage, match="empty"):
        next(reading)
