"""The picture of proposals by source: which panels there are, and what is painted where."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from weaksam import cli
from weaksam.config import UserError
from weaksam.data.proposals.files import write_store
from weaksam.report.proposal_picture import (
    PANEL_SIDE,
    draw_panel,
    draw_proposals,
    outline,
    panel_name,
    panels_of,
    write_picture,
)
from weaksam.structures.clue_points import SOURCES
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.proposals import IMPORTED, Proposals

GREY = np.full((60, 80, 3), 120, np.uint8)


def proposals(boxes, scores, sources, masks=True):
    rles = []
    for x1, y1, x2, y2 in boxes:
        mask = torch.zeros(60, 80, dtype=torch.bool)
        mask[y1:y2, x1:x2] = True
        rles.append(rle_from_mask(mask))
    table = torch.tensor(boxes).float().reshape(-1, 4)
    return Proposals(
        table, torch.tensor(scores).float(), torch.tensor(sources).long(), tuple(rles) if masks else (), (60, 80)
    )


def test_every_source_has_a_name():
    assert [panel_name(number) for number in range(len(SOURCES))] == [
        *("grid", "coarse", "fine", "cross"),
        *("joint", "joint"),
        *("given", "text"),
    ]
    assert (panel_name(IMPORTED), panel_name(99)) == ("imported", "source 99")


def test_panels_draw_the_best_and_no_near_repeats():
    # Source 0: the second repeats the best (IoU 0.95), the third is the best but one, the fourth one too many
    boxes = [[0, 0, 19, 20], [0, 0, 20, 20], [30, 30, 50, 50], [60, 0, 70, 20], [5, 5, 9, 9], [1, 1, 3, 3]]
    found = proposals(boxes, [0.8, 0.9, 0.7, 0.6, 0.1, 0.2], [0, 0, 0, 0, 4, 5])
    panels = panels_of(found, max_boxes=2)
    assert [(one.name, one.num_all, one.rows.tolist()) for one in panels] == [("grid", 4, [1, 2]), ("joint", 2, [5, 4])]
    assert [one.title for one in panels] == ["grid: 4, 2 drawn", "joint: 2"]
    assert panels_of(Proposals.none(), max_boxes=2) == []


def test_masks_are_tinted_and_large_ones_outlined_only():
    small, large = [20, 10, 40, 30], [0, 0, 80, 50]
    for box, inside_changes in ((small, True), (large, False)):
        drawn = np.asarray(draw_panel(GREY, proposals([box], [1], [0]), torch.tensor([0])).photo)
        grey = np.asarray(Image.fromarray(GREY).resize((drawn.shape[1], drawn.shape[0])))
        changed = (drawn.astype(int) - grey != 0).any(axis=2)
        scale = PANEL_SIDE / 80
        middle = changed[int(20 * scale), int(30 * scale)]  # inside both boxes
        border = changed[int(20 * scale), int(box[0] * scale)]
        assert (middle, border) == (inside_changes, True)
        assert not changed[int(55 * scale), int(70 * scale)]  # outside both


def test_boxes_without_masks_are_drawn():
    drawn = np.asarray(draw_panel(GREY, proposals([[20, 10, 40, 30]], [1], [0], masks=False), torch.tensor([0])).photo)
    assert (drawn[50, 100:200] != 120).any() and (drawn[100, 150] == 120).all()


def test_outline_by_hand():
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:, 1:8] = True
    border = mask_from_rle(outline(rle_from_mask(mask), (10, 10)))
    # Two pixels inside either side; none along the picture's edge, where the object may go on
    assert border[5].nonzero()[:, 0].tolist() == [1, 2, 6, 7] and torch.equal(border[0], border[5])
    assert not mask_from_rle(outline(rle_from_mask(torch.zeros(5, 5, dtype=torch.bool)), (20, 20))).any()


def test_the_sheet_has_a_panel_per_source_and_one_for_the_points():
    found = proposals([[20, 10, 40, 30]] * 4, [1] * 4, [0, 1, 3, 5])
    points = {"coarse": torch.tensor([[60.0, 50.0]]), "cross": torch.zeros(0, 2)}
    sheet = draw_proposals(GREY, found, points=points)
    assert sheet.size == (3 * (PANEL_SIDE + 8) + 8, 2 * (PANEL_SIDE * 3 // 4 + 26 + 8) + 4)
    pixels = np.asarray(sheet)
    at = (26 + 250, 8 + 300)  # the coarse point in the first panel, and again in those of coarse and joint
    right, down = PANEL_SIDE + 8, 300 + 26 + 8
    for row, column, marked in ((0, 0, True), (0, 1, False), (0, 2, True), (1, 0, False), (1, 1, True)):
        pixel = pixels[at[0] + row * down, at[1] + column * right]
        assert (pixel != 120).any() == marked, (row, column)
    assert (pixels[-50, -50] == 255).all()  # five panels of six
    assert draw_proposals(GREY, Proposals.none()).size == (PANEL_SIDE + 16, PANEL_SIDE * 3 // 4 + 26 + 8 + 4)


def test_draw_from_a_store(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(GREY).save(tmp_path / "photos/a.png")
    found = proposals([[20, 10, 40, 30], [0, 0, 9, 9]], [0.5, 0.6], [0, 2])
    write_store(tmp_path / "store", {"a.png": found, "b.png": Proposals.none()}, 1)

    def draw(image, out):
        command = ["boxes", "draw", tmp_path / "store", "--images", tmp_path / "photos", "--image", image]
        return CliRunner().invoke(cli.app, list(map(str, [*command, "--out", tmp_path / out])))

    result = draw("a", "x.png")
    assert result.exit_code == 0 and "a.png by source (grid 1, fine 1)" in result.stdout
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG" and picture.width == 3 * (PANEL_SIDE + 8) + 8
    assert draw("a.png", "x.jpg").exit_code == 0
    for image, out, wanted in (
        ("c", "x.png", "2 others (a.png, b.png)"),
        ("b", "x.png", "photo"),
        ("a", "x.gif", ".jpg"),
    ):
        result = draw(image, out)
        assert result.exit_code == 2 and wanted in result.stderr and result.stderr.count("\n") == 1
    with pytest.raises(UserError, match=r"found .*x\.bmp"):
        write_picture(tmp_path / "x.bmp", Image.fromarray(GREY))
