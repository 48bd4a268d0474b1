"""AP over IoU as a picture: what is drawn, from the figures of `weaksam eval`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers import write_forms
from weaksam import cli
from weaksam.config import UserError
from weaksam.evaluation.files import evaluate_files
from weaksam.report.ap_plot import drawable, write_ap_plot


@pytest.fixture
def forms(tmp_path: Path) -> Path:
    write_forms(tmp_path)
    return tmp_path


def test_curves_are_the_means_by_iou(forms: Path) -> None:
    figures = evaluate_files(forms / "truth.json", forms / "numbers.json", ["voc", "corloc", "coco"])
    curves = drawable(figures)
    assert list(curves) == ["voc", "coco"] and list(curves["voc"])[::9] == ["0.5", "0.95"]
    assert curves["voc"] == figures["voc"]["mean"]
    assert figures["voc"]["average"] == pytest.approx(sum(figures["voc"]["mean"].values()) / 10)
    known = list(curves["coco"].values())
    assert known[0] == figures["coco"]["ap50"] and known[5] == figures["coco"]["ap75"]
    assert sum(known) / 10 == pytest.approx(figures["coco"]["ap"])
    with pytest.raises(UserError, match="found none in the metrics corloc"):
        drawable({"corloc": figures["corloc"]})


def test_a_class_without_a_truth_leaves_a_gap(tmp_path: Path) -> None:
    nothing = {"mean": {}, "per_class": {}, "classes": ["a"], "protocol": "p"}
    nothing["mean"] = dict.fromkeys(f"{value / 100:g}" for value in range(50, 100, 5))
    write_ap_plot(tmp_path / "x.svg", {"voc": nothing})
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()[:600]


def test_the_command_prints_and_draws(forms: Path) -> None:
    command = ["eval", "--truth", forms / "truth.json", "--detections", forms / "numbers.json", "--metrics", "voc"]

    def invoke(*more: object):
        return CliRunner().invoke(cli.app, [str(word) for word in (*command, *more)])

    result = invoke("--plot", forms / "ap.png")
    assert result.exit_code == 0 and result.stdout.startswith("voc: AP50 0.") and ", AP .5:.95 0." in result.stdout
    assert "  AP by IoU: 0.5 0." in result.stdout
    with Image.open(forms / "ap.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    refused = invoke("--plot", forms / "ap.txt")
    assert refused.exit_code == 2 and ".png" in refused.stderr and not (forms / "ap.txt").exists()
