"""The proposal stage: a store of every photo's proposals, and what makes another one."""

import pytest
import torch
from PIL import Image

from tests.helpers import SmallDevice, block_photo, context, part_file
from weaksam.config import Settings
from weaksam.data.dataset import SplitSettings, load_dataset, load_photos
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, grid_of, propose, run
from weaksam.structures.clue_points import CluePoints


def test_the_grid_is_the_published_one_for_sam_and_milder_for_small_models():
    for name in ("sam_vit_h", "sam2_hiera_tiny", "edgetam"):
        published = grid_of(name, ProposalSettings())
        assert (published.grid_side, published.min_pred_iou, published.min_stability) == (32, 0.3, 0.3)
        assert published.grid_nms_iou == 0.3
    assert grid_of("tree", ProposalSettings()).grid_side == 16
    assert grid_of("sam_nano", ProposalSettings()).grid_side == 16
    assert grid_of("sam_nano", ProposalSettings(grid_side=0, min_stability=0.5)).grid_side == 0
    assert grid_of("sam_nano", ProposalSettings(grid_side=0, min_stability=0.5)).min_stability == 0.5


@pytest.fixture()
def dataset(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(block_photo(i)).save(folder / f"{i}.png")
    Image.new("RGB", (60, 40)).save(folder / "flat.png")
    names = [f"{i}.png" for i in range(3)] + ["flat.png"]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{name},block\n" for name in names))
    return load_dataset(SplitSettings(images=folder, tags=tmp_path / "tags.csv"), name="train")


def clues(image_id):
    """One point on the red block of 0.png and 2.png, none elsewhere."""
    if image_id in ("0.png", "2.png"):
        return CluePoints.of(torch.tensor([[60.0, 40.0]]), torch.tensor([0]))
    return CluePoints.none()


def test_run_fills_a_store_that_reads_back_what_propose_gives(dataset, tmp_path):
    segmenter, settings = RegionTreeSegmenter(), ProposalSettings(max_proposals=20)
    store = run(context(tmp_path / "out", dataset), settings, segmenter, clues, dataset, "train")
    assert store.sealed
    assert [row["image_id"] for row in store.rows()] == list(dataset.image_ids)
    expected = propose(segmenter, block_photo(2), clues("2.png"), settings)
    row = store["2.png"]
    assert torch.equal(row["boxes"], expected.boxes)
    assert torch.equal(row["sources"], expected.sources)
    assert row["rles"] == list(expected.rles)
    assert row["mask_size"].tolist() == [120, 160]
    assert 1 in row["sources"]
    assert 1 not in store["1.png"]["sources"]
    assert store["flat.png"]["boxes"].shape == (0, 4)
    assert store["flat.png"]["rles"] == []


def test_other_clues_settings_or_segmenter_make_another_store(dataset, tmp_path):
    def folder(settings=None, segmenter=None, clue_fingerprint=""):
        ctx = context(tmp_path / "out", dataset)
        settings, segmenter = settings or ProposalSettings(), segmenter or RegionTreeSegmenter()
        return run(ctx, settings, segmenter, clues, dataset, "train", clue_fingerprint=clue_fingerprint).folder

    first = folder()
    assert folder(ProposalSettings(batch_size=5)) == first  # changes no result
    others = {folder(ProposalSettings(min_side=20)), folder(clue_fingerprint="other")}
    assert len(others) == 2
    assert first not in others


def test_settings_are_frozen_and_checked():
    assert issubclass(ProposalSettings, Settings)
    with pytest.raises(ValueError):
        ProposalSettings(nms_iou=1.5)


# Photos without tags


@pytest.fixture()
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        Image.fromarray(block_photo(seed)[: 60 + 12 * seed]).save(folder / f"{seed}.png")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return load_photos(SplitSettings(images=folder), name="train")


def some_clues(image_id: str) -> CluePoints:
    return CluePoints.of(torch.tensor([[60.0, 40.0], [40.0, 30.0], [120.0, 50.0]]), torch.tensor([0, 0, 1]))


def test_a_full_device_changes_no_byte_of_the_store(photos, tmp_path, capsys):
    grid = {"ask_for_regions": False, "grid_side": 4}

    def stored_bytes(name: str, segmenter, **settings) -> bytes:
        store = run(
            context(tmp_path / name, photos), ProposalSettings(**grid, **settings), segmenter, some_clues, photos, "t"
        )
        assert any(len(row["boxes"]) for row in store.rows())
        return part_file(store.folder).read_bytes()

    plain = stored_bytes("plain", RegionTreeSegmenter())
    assert "memory" not in capsys.readouterr().err
    small = SmallDevice(room=5, photos_room=2)
    assert stored_bytes("small", small, photos_at_once=4) == plain
    assert max(small.answered) == 4 and small.encoded == [2, 2, 1]
    notes = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert [line.split(": ")[-1] for line in notes] == [
        "2 photos at a time from here on",
        "4 prompts at a time from here on",
    ]
    assert stored_bytes("unthreaded", RegionTreeSegmenter(), read_ahead=0, batch_size=3) == plain


def test_what_changes_no_result_makes_no_other_store(photos, tmp_path):
    def folder(**settings):
        arguments = RegionTreeSegmenter(), some_clues, photos, "t"
        return run(context(tmp_path, photos), ProposalSettings(**settings), *arguments).folder

    first = folder()
    assert folder(read_ahead=0, photos_at_once=3, batch_size=7) == first
    assert folder(rules="ours", nms_iou=0.9) == first
    original = folder(rules="original")
    assert original != first
    spelt_out = ProposalSettings(rules="original").model_dump() | {"rules": "ours"}
    assert folder(**spelt_out) == original


def test_a_column_of_the_store_is_read_by_image(photos, tmp_path):
    store = run(context(tmp_path, photos), ProposalSettings(), RegionTreeSegmenter(), some_clues, photos, "t")
    boxes = store.column("boxes")
    assert list(boxes) == list(photos.image_ids) and len(boxes) == 5
    assert all(torch.equal(boxes[row["image_id"]], row["boxes"]) for row in store.rows())
    with pytest.raises(KeyError):
        boxes["none.png"]


def test_photos_without_tags_are_a_dataset_without_classes(photos):
    assert photos.image_ids == tuple(f"{seed}.png" for seed in range(5))
    assert photos.classes == () and {sample.tags for sample in photos} == {()}
    assert [image_id for image_id, _ in photos.bad] == ["cut.jpg"] and "truncated" in photos.bad[0][1]
    assert photos.samples[2].size == (84, 160) and photos.samples[2].number == 3
