"""Proposals from elsewhere: a store is taken for exactly its own photos, and its boxes become a stage's rows."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.helpers import ROOT, context, pickled, proposals
from weaksam import cli
from weaksam.config import UserError, fingerprint_of
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.data.proposals.exchange import import_proposals
from weaksam.data.proposals.files import write_store
from weaksam.data.proposals.given import (
    PHOTOS_FILE,
    GivenSettings,
    box_masks,
    mask_frame,
    open_given,
    photo_hashes,
    record_photos,
    recorded_photos,
)
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.proposals import ProposalSettings, run_given
from weaksam.store.records import read_record, write_record
from weaksam.store.sealed import open_sealed
from weaksam.structures.dataset import Dataset
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.proposals import IMPORTED, PROPOSAL_COLUMNS, Proposals

DEFAULT_BEFORE, ORIGINAL_BEFORE = "0d75a4beb7b21b8f", "872622869ee9b2d0"
"""Fingerprints of the settings from before proposals could be given; a setting that changes results changes them."""


@pytest.fixture
def photos(tmp_path) -> Dataset:
    """Three photos of noise, 60 pixels wide and 40 high: a.png, b.png and c.png."""
    return noise(tmp_path / "photos", seed=0)


def noise(folder: Path, seed: int) -> Dataset:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for name in "abc":
        Image.fromarray(draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return load_photos(SplitSettings(images=folder), name="train")


FOUND = {
    "a.png": proposals([0, 0, 20, 20, 0.2], [5, 5, 50, 30, 0.9], [0, 0, 20, 20, 0.5]),
    "b.png": proposals([50, 30, 64, 42, 0.7]),
    "c.png": proposals(),
}


def taken(tmp_path, dataset, folder, **settings):
    """The store that the stage makes of the one given."""
    given = ProposalSettings(given={"train": folder}, **settings)
    return run_given(context(tmp_path / "out", dataset), given, dataset, "train")


# What becomes of given boxes


def test_rows_are_by_score_inside_the_photo_and_have_masks(photos, tmp_path):
    given = write_store(tmp_path / "given", FOUND, 1)
    store = taken(tmp_path, photos, given.folder)
    assert (store.image_ids, store.columns) == (photos.image_ids, PROPOSAL_COLUMNS)
    row = store["a.png"]
    assert row["scores"].tolist() == pytest.approx([0.9, 0.5, 0.2])
    # The default rules neither suppress equal boxes nor ask for a size: 14 x 12 pixels stay 10 x 10 inside
    assert row["boxes"].tolist() == [[5, 5, 50, 30], [0, 0, 20, 20], [0, 0, 20, 20]]
    assert store["b.png"]["boxes"].tolist() == [[50, 30, 60, 40]]
    assert row["sources"].tolist() == [IMPORTED] * 3
    assert row["mask_size"].tolist() == [40, 60]
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[5:30, 5:50] = True
    assert torch.equal(mask_from_rle(row["rles"][0]), mask)
    empty = store["c.png"]
    assert empty["boxes"].shape == (0, 4) and empty["rles"] == [] and empty["mask_size"].tolist() == [40, 60]
    assert recorded_photos(store.folder) == photo_hashes(photos)


def test_rules_apply_where_they_are_set(photos, tmp_path):
    folder = write_store(tmp_path / "given", FOUND, 1).folder

    def kept(**settings):
        store = taken(tmp_path, photos, folder, **settings)
        return [round(score, 1) for score in store["a.png"]["scores"].tolist()], len(store["b.png"]["boxes"])

    assert kept(nms_iou=0.9) == ([0.9, 0.5], 1)
    assert kept(dedupe="pixel") == ([0.9, 0.5], 1)
    assert kept(max_proposals=2) == ([0.9, 0.5], 1)
    assert kept(min_side=16) == ([0.9, 0.5, 0.2], 0)  # 10 x 10 once clipped
    assert kept(min_side=21) == ([0.9], 0)
    assert kept(size_rule="mist_voc") == ([0.9, 0.5, 0.2], 0)
    assert kept(max_area=0.4) == ([0.5, 0.2], 1)  # 45 x 25 of 60 x 40 is 0.47


def test_masks_of_another_run_stay_with_their_boxes(photos, tmp_path):
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 1:3] = masks[1, :2, 3:] = True
    one = Proposals(
        torch.tensor([[10.0, 10, 30, 30], [30, 0, 60, 20]]), torch.tensor([0.3, 0.6]), torch.tensor([2, 0]),
        tuple(map(rle_from_mask, masks)), (4, 6),
    )  # fmt: skip
    given = write_store(tmp_path / "given", {**FOUND, "a.png": one}, 1)
    row = taken(tmp_path, photos, given.folder)["a.png"]
    assert (row["sources"].tolist(), row["mask_size"].tolist()) == ([0, 2], [4, 6])
    assert [torch.equal(mask_from_rle(rle), mask) for rle, mask in zip(row["rles"], masks.flip(0), strict=True)]
    assert torch.equal(mask_from_rle(row["rles"][0]), masks[1])


def test_masks_cover_every_pixel_a_box_touches():
    size = (300, 1000)
    frame = mask_frame(size)
    assert frame == (77, 256) and mask_frame((40, 60)) == (40, 60) and mask_frame((1, 5000)) == (1, 256)
    drawn = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([900, 250, 100, 50])
    drawn[:, 2:] += drawn[:, :2]
    drawn[0] = torch.tensor([999.5, 299.5, 1000, 300])
    for box, rle in zip(drawn.tolist(), box_masks(drawn, size, frame), strict=True):
        plain = torch.zeros(frame, dtype=torch.bool)
        for y in range(frame[0]):
            for x in range(frame[1]):
                left, top = x * 1000 / 256, y * 300 / 77
                plain[y, x] = box[0] < left + 1000 / 256 and box[2] > left and box[1] < top + 300 / 77 and box[3] > top
        assert torch.equal(mask_from_rle(rle), plain) and plain.any()


# Which store belongs to which photos


def test_images_that_differ_are_refused(photos, tmp_path):
    few = write_store(tmp_path / "few", {"a.png": proposals(), "z.png": proposals(), "y.png": proposals()}, 1)
    with pytest.raises(UserError) as caught:
        open_given(few.folder, photos)
    assert "exactly the 3 train photos" in str(caught.value)
    assert "none for 2 of them (first: b.png) and 2 other images (first: y.png): give the store" in str(caught.value)
    more = write_store(tmp_path / "more", {**FOUND, "z.png": proposals()}, 1)
    with pytest.raises(UserError, match=r"found 1 other images \(first: z.png\)"):
        open_given(more.folder, photos)


def test_names_need_no_ending_and_unreadable_photos_may_have_boxes(photos, tmp_path):
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    dataset = load_photos(SplitSettings(images=tmp_path / "photos"), name="train")
    assert [name for name, _ in dataset.bad] == ["broken.png"]
    bare = {Path(name).stem: found for name, found in FOUND.items()}
    given = open_given(write_store(tmp_path / "given", {**bare, "broken": proposals()}, 1).folder, dataset)
    assert given.name_of == {"a.png": "a", "b.png": "b", "c.png": "c"} and not given.knows_photos
    assert given.of(dataset.by_id["a.png"]).scores.tolist() == pytest.approx([0.9, 0.5, 0.2])


def test_photos_of_the_same_name_and_other_content_are_refused(photos, tmp_path):
    other = noise(tmp_path / "other", seed=1)
    store = write_store(tmp_path / "given", FOUND, 1)
    assert not open_given(store.folder, other).knows_photos  # it cannot know
    record_photos(store.folder, photo_hashes(photos))
    assert open_given(store.folder, photos).knows_photos
    with pytest.raises(UserError, match=r"made from other files for 3 of their names \(a.png, b.png, c.png\): give"):
        open_given(store.folder, other)
    with pytest.raises(UserError, match="found one made from others"):
        record_photos(store.folder, photo_hashes(other))


def test_boxes_outside_their_photo_are_refused(photos, tmp_path):
    outside = {**FOUND, "b.png": proposals([0, 0, 10, 10, 1], [55, 0, 75, 40, 1])}  # 5 of 20 columns inside
    given = open_given(write_store(tmp_path / "given", outside, 1).folder, photos)
    with pytest.raises(UserError, match=r"inside b.png \(60 x 40 pixels\) .* found 1 of 2 .* \(first: 55, 0, 75, 40\)"):
        given.of(photos.by_id["b.png"])
    half = {**FOUND, "b.png": proposals([50, 0, 70, 40, 1])}
    given = open_given(write_store(tmp_path / "half", half, 1).folder, photos)
    assert given.of(photos.by_id["b.png"]).boxes.tolist() == [[50, 0, 60, 40]]


def test_an_import_records_the_photos(photos, tmp_path):
    arrays = [np.array([[0, 0, 9, 19, 0.5]]), np.zeros((0, 5)), np.array([[1, 2, 3, 4, 1.0]])]
    path = pickled(tmp_path / "mmdet.pkl", arrays)
    (tmp_path / "list.txt").write_text("a\nb\nc\n")
    arguments = {"image_list": tmp_path / "list.txt", "photos": tmp_path / "photos"}
    import_proposals(path, tmp_path / "given", **arguments)
    assert recorded_photos(tmp_path / "given") == photo_hashes(photos)
    (tmp_path / "given" / PHOTOS_FILE).unlink()  # one made before photos were recorded
    import_proposals(path, tmp_path / "given", **arguments)
    assert open_given(tmp_path / "given", photos).knows_photos
    assert taken(tmp_path, photos, tmp_path / "given")["a.png"]["boxes"].tolist() == [[0, 0, 9, 19]]


def test_a_record_that_is_none_is_one_sentence(photos, tmp_path):
    store = write_store(tmp_path / "given", FOUND, 1)
    (store.folder / PHOTOS_FILE).write_text("[]")
    with pytest.raises(UserError, match=r"photos\.json, found .*: delete it"):
        open_given(store.folder, photos)


# Settings and fingerprints


def test_without_given_every_fingerprint_is_what_it_was():
    assert fingerprint_of(ProposalSettings()).startswith(DEFAULT_BEFORE)
    assert fingerprint_of(ProposalSettings(rules="original")).startswith(ORIGINAL_BEFORE)
    assert ProposalSettings(given={}).size_rule == ProposalSettings(given={"train": None}).size_rule == "min_side"


def test_given_presets_and_their_way_through_a_record():
    for values in ({}, {"min_side": 20}, {"rules": "original"}, {"nms_iou": 0.7, "max_proposals": 10}):
        settings = ProposalSettings(given=GivenSettings(train="x"), **values)
        again = RunSettings.model_validate(RunSettings(proposals=settings).model_dump(mode="json")).proposals
        assert again == settings and settings.nms_iou == values.get("nms_iou", 1.0)
        assert settings.size_rule == ("min_side" if "min_side" in values else "none")


def test_fingerprint_follows_the_content_and_not_the_place(photos, tmp_path):
    first = write_store(tmp_path / "given", FOUND, 1).folder
    shutil.copytree(first, tmp_path / "moved")
    store = taken(tmp_path, photos, first)
    assert taken(tmp_path, photos, tmp_path / "moved").fingerprint == store.fingerprint
    assert taken(tmp_path, photos, first, grid_side=8).fingerprint == store.fingerprint  # prompts nothing
    others = {
        taken(tmp_path, photos, write_store(tmp_path / "other", FOUND, 2).folder).fingerprint,
        taken(tmp_path, photos, first, max_proposals=2).fingerprint,
    }
    assert len(others) == 2 and store.fingerprint not in others


# Through the pipeline


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_a_run_takes_given_proposals_and_its_own_can_be_given_again(photos, tmp_path):
    given = write_store(tmp_path / "given", FOUND, 1).folder
    command = ("proposals", "--images", tmp_path / "photos", "--out")
    result = invoke(*command, tmp_path / "one", f"proposals.given.train={given}")
    assert result.exit_code == 0, (result.output, result.exception)
    (first,) = (tmp_path / "one").glob("proposals/store/train-*")
    assert open_sealed(first)["a.png"]["boxes"].shape == (3, 4)
    record = json.loads((tmp_path / "one" / "run.json").read_text())
    assert record["hashes"]["given proposals of train"] == open_sealed(given).fingerprint
    assert "given stores" in json.loads((tmp_path / "one" / "metrics.json").read_text())["note"]
    assert invoke("report", tmp_path / "one").exit_code == 0
    again = invoke(*command, tmp_path / "two", f"proposals.given.train={first}", "proposals.max_proposals=1")
    assert again.exit_code == 0, (again.output, again.exception)
    (second,) = (tmp_path / "two").glob("proposals/store/train-*")
    assert open_sealed(second)["a.png"]["boxes"].tolist() == [[5, 5, 50, 30]]


def test_a_wrong_store_is_refused_before_anything_is_trained(photos, tmp_path):
    given = write_store(tmp_path / "given", FOUND, 1).folder
    (tmp_path / "tags.json").write_text(json.dumps({name: ["cat"] for name in photos.image_ids}))
    command = ("wsod", "--images", tmp_path / "photos", "--tags", tmp_path / "tags.json", "--out", tmp_path / "out")
    both = invoke(*command, f"proposals.given.train={given}", f"data.test.images={tmp_path / 'photos'}",
                  f"data.test.tags={tmp_path / 'tags.json'}", "backbone.weights=none")  # fmt: skip
    assert both.exit_code == 2 and "proposals.given.test not set" in both.stderr
    record_photos(given, {name: "0" * 64 for name in photos.image_ids})
    other = invoke(*command, f"proposals.given.train={given}", "backbone.weights=none")
    assert other.exit_code == 2 and "made from other files" in other.stderr and other.stderr.count("\n") == 1
    absent = invoke(*command, f"proposals.given.train={tmp_path / 'nowhere'}", "backbone.weights=none")
    assert absent.exit_code == 2 and "sealed store" in absent.stderr
    assert not (tmp_path / "out" / "clues").exists()


# Selective search


def test_selective_search_writes_a_store_that_can_be_given(photos, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (weaksam[baselines])")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("OpenCV has no contrib modules")
    spec = importlib.util.spec_from_file_location("selective_search", ROOT / "benchmarks" / "selective_search.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scene = np.full((40, 60, 3), 60, dtype=np.uint8)
    scene[8:30, 10:40] = (200, 40, 40)
    Image.fromarray(scene).save(tmp_path / "photos" / "a.png")
    dataset = load_photos(SplitSettings(images=tmp_path / "photos"), name="train")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    first, second = (module.write_proposals(tmp_path / "photos", tmp_path / out, 5, 8, 500) for out in ("one", "two"))
    assert [path.read_bytes() for path in sorted(first.folder.glob("*"))] == [
        path.read_bytes() for path in sorted(second.folder.glob("*"))
    ]
    row = first["a.png"]
    assert 1 <= len(row["boxes"]) <= 5 and row["scores"][0] == 1 and (row["scores"].diff() < 0).all()
    assert (row["boxes"] == torch.tensor([10.0, 8, 40, 30])).all(1).any()
    halved = module.selective_search(8, 30)(scene)  # searched at half the size, in the photo's pixels
    assert ((halved - torch.tensor([10.0, 8, 40, 30])).abs() <= 2).all(1).any()
    given = open_given(first.folder, dataset)
    assert given.knows_photos and len(given.of(dataset.by_id["a.png"])) == len(row["boxes"])
    with pytest.raises(UserError, match="made with another fingerprint"):
        module.write_proposals(tmp_path / "photos", tmp_path / "one", 6, 8, 500)


@pytest.mark.parametrize("hashes", [{}, {"b.jpg": "1" * 64, 'a "quoted" ü.jpg': "2" * 64}])
def test_the_record_of_photos_is_written_line_by_line_as_every_record_is(
    tmp_path: Path, hashes: dict[str, str]
) -> None:
    record_photos(tmp_path, hashes)
    assert read_record(tmp_path / PHOTOS_FILE) == {"sha256": hashes}
    written = (tmp_path / PHOTOS_FILE).read_bytes()
    record_photos(tmp_path, hashes)
    assert (tmp_path / PHOTOS_FILE).read_bytes() == written
    if hashes:
        write_record(tmp_path / "other.json", {"sha256": dict(sorted(hashes.items()))}, indent=0)
        assert written == (tmp_path / "other.json").read_bytes()
