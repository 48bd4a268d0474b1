"""A run that retrains DINO: masks start from the backbone, the summary measures it, the plot of RoI drop refuses it."""

from pathlib import Path

import pytest

from tests.helpers import TOY_RUN
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.roi_drop import plot_roi_drop
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset

TOY_DINO = [
    *(setting for setting in TOY_RUN if not setting.startswith("retrain.")),
    "retrain=dino",
    *(
        f"retrain.{setting}"
        for setting in (
            "num_epochs=1",
            "short_side=64",
            "long_side=64",
            "embed_dims=32",
            "norm_groups=8",
            "ffn_dims=16",
            "encoder_layers=1",
            "decoder_layers=1",
            "num_queries=10",
            "max_boxes=5",
            "batch_size=8",
        )
    ),
]


@pytest.mark.slow
def test_a_run_with_dino_ends_with_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path, SceneSettings(size=64, num_classes=2, max_clutter=4), 6, 2, seed=1)
    out = tmp_path / "out"
    data = [
        f"data.{split}.{kind}={tmp_path / name}"
        for split in ("train", "test")
        for kind, name in (("images", split), ("truth", f"instances_{split}.json"))
    ]
    settings = load_settings(RunSettings, None, [*TOY_DINO, *data, f"out={out}"])
    metrics = pipeline.run(settings)
    assert "test_boxes" in next(row for row in metrics["stages"] if row["stage"] == "retrain")["figures"]
    assert (out / "wsis" / "detections_test.json").is_file()
    with pytest.raises(UserError, match=r"retrains Faster R-CNN, .* found retrain\.detector=dino: give another run"):
        plot_roi_drop(out)
