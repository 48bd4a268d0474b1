"""Figures of clues by kind: each kind alone, and all together."""

import torch

from weaksam.evaluation.clue_figures import ALL, measure_clues
from weaksam.evaluation.text import clue_text
from weaksam.evaluation.truth import Truth
from weaksam.report.tables import clue_table
from weaksam.structures.clue_points import COARSE, CROSS, CluePeaks
from weaksam.structures.instances import Instances

TRUTH = Truth(
    {"a": Instances(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([0, 1]))}, {"a": (0, 1)}, {}, 2
)
PEAKS = CluePeaks(
    torch.tensor([[5.0, 5.0], [25.0, 25.0], [25.0, 25.0], [50.0, 50.0]]),
    torch.tensor([0, 0, -1, -1]),
    torch.tensor([COARSE, COARSE, CROSS, CROSS]),
    torch.tensor([1.0, 0.9, 1.0, 1.0]),
)


def test_each_kind_is_measured_alone_and_all_together() -> None:
    figures = measure_clues(TRUTH, lambda _: PEAKS)
    assert set(figures.points) == {"coarse", "cross", ALL} and not figures.masks
    inside = {name: (result.inside, result.hit, result.num_points) for name, result in figures.points.items()}
    assert inside == {"coarse": (0.5, 0.5, 2), "cross": (0.5, 0.5, 2), ALL: (0.5, 1.0, 4)}
    lines = clue_text(figures, ("cat", "dog")).splitlines()
    assert lines[2].split() == ["coarse", "2", "0.500", "1.000", "1.000", "0.500"]
    assert any(line.startswith("protocol: clue points: a point is right inside any true box") for line in lines)
    assert figures.as_dict()["points"]["cross"]["top_inside"] is None
    metrics = {"stages": [{"stage": "clues", "figures": {"train_clues": figures.as_dict()}}]}
    assert [row[0] for row in clue_table(metrics).rows] == ["coarse", "cross", ALL]
    assert clue_table({"stages": []}).rows == []
