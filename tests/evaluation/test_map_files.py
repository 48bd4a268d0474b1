"""Folders of maps and masks: pairing by name, sizes, what is printed, drawn and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import output, refused
from weaksam.data.grey_pictures import read_grey, read_mask
from weaksam.evaluation.foreground_maps import measure_map
from weaksam.evaluation.map_files import measure_folders


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        truth = np.zeros((12, 16))
        truth[3:9, 4 : 6 + ord(name) - ord("a")] = 255
        write(tmp_path / "gt" / f"{name}.png", truth)
        write(tmp_path / "maps" / f"{name}.png", np.clip(truth * 0.6 + rng.integers(0, 80, truth.shape), 0, 255))
    return tmp_path / "maps", tmp_path / "gt"


def test_maps_are_paired_by_name_and_not_by_place(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    before = measure_folders(maps, masks)
    write(maps / "0_first.png", np.zeros((3, 3)))  # a map without a mask moves nothing
    after = measure_folders(maps, masks)
    assert after.figures.as_dict() == before.figures.as_dict() and after.figures.num_maps == 3
    by_hand = [measure_map(read_grey(maps / f"{name}.png") / 255, read_mask(masks / f"{name}.png")) for name in "abc"]
    as_they_are = measure_folders(maps, masks, stretch=False)
    assert as_they_are.figures.mae == pytest.approx(np.mean([of_map.mae for of_map in by_hand]))
    assert before.figures.mae != as_they_are.figures.mae
    assert "stretched to 0..1" in before.protocol and "levels as they are" in as_they_are.protocol


def test_a_map_of_another_size_is_resized_and_counted(folders: tuple[Path, Path]) -> None:
    maps, masks = folders
    write(maps / "a.png", read_grey(maps / "a.png").repeat(2, axis=0).repeat(2, axis=1))
    report = measure_folders(maps, masks)
    assert report.num_resized == 1 and "16 x 12 pixels, 1 of 3 maps resized to it" in report.protocol


def test_masks_of_ones_and_of_smooth_edges(tmp_path: Path) -> None:
    write(tmp_path / "ones.png", np.array([[0, 1, 1]]))
    write(tmp_path / "smooth.png", np.array([[0, 90, 200]]))
    assert read_mask(tmp_path / "ones.png").tolist() == [[False, True, True]]
    assert read_mask(tmp_path / "smooth.png").tolist() == [[False, False, True]]
    wide = np.array([[0, 257 * 7, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_grey(tmp_path / "wide.png").tolist() == [[0, 7, 255]]


def test_the_command_prints_the_protocol_and_draws(folders: tuple[Path, Path], tmp_path: Path) -> None:
    maps, masks = folders
    text = output("eval-maps", maps, masks, "--plot", tmp_path / "curves.png")
    for part in ("M (mean absolute error)", "F weighted", "weaksam", "256 thresholds", "16 x 12", "3 maps"):
        assert part in text
    assert read_grey(tmp_path / "curves.png").shape[1] > 500
    figures = json.loads(output("eval-maps", maps, masks, "--as-is", "--json"))
    assert figures["num_maps"] == 3 and 0 < figures["weighted_f"] < 1 and figures["s"] <= 1


def test_what_cannot_be_measured_is_one_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    maps, masks = folders
    assert "wanted a folder of pictures" in refused("eval-maps", tmp_path / "absent", masks)
    (maps / "b.png").unlink()
    assert "found none of b: add b.png" in refused("eval-maps", maps, masks)
    (maps / "b.png").write_bytes(b"no picture")
    assert "wanted a grey picture" in refused("eval-maps", maps, masks)
    write(masks / "b.jpg", np.zeros((12, 16)))
    assert "found b.jpg and b.png" in refused("eval-maps", maps, masks)
    assert "wanted a plot named" in refused("eval-maps", maps, masks, "--plot", tmp_path / "curves.txt")
