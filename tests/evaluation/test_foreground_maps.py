"""Measures of grey maps: by hand, against plain loops over pixels and thresholds, and against pysodmetrics."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image

from weaksam.data.grey_pictures import read_mask
from weaksam.evaluation.foreground_maps import MapFigures, measure_map, stretched, weighted_f

MAPS = ("noise", "blob", "inverse", "empty", "full", "flat", "one pixel", "last corner")


def blob(size: tuple[int, int] = (21, 17), middle: tuple[int, int] = (8, 6), radius: float = 4.5) -> np.ndarray:
    rows, columns = np.indices(size)
    return np.hypot(rows - middle[0], columns - middle[1]) < radius


def case(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A map of 8-bit levels in [0, 1] and its truth."""
    rng = np.random.default_rng(MAPS.index(name))
    noise = rng.integers(0, 256, (21, 17)) / 255
    truth = blob()
    if name == "blob":
        return np.round(255 * (0.7 * blob(middle=(9, 7)) + 0.3 * noise)) / 255, truth
    if name == "inverse":
        return 1.0 - truth, truth
    if name == "flat":
        return np.full(truth.shape, 128 / 255), truth
    if name == "one pixel":
        return noise, np.indices(truth.shape).sum(axis=0) == 0
    if name == "last corner":
        return noise, np.indices(truth.shape).sum(axis=0) >= 35
    return noise, {"empty": truth & False, "full": truth | True}.get(name, truth)


def enhanced_alignment(binary: np.ndarray, truth: np.ndarray) -> float:
    """E of a binary map pixel by pixel, as the paper defines it."""
    if not truth.any() or truth.all():
        matrix = ~binary if not truth.any() else binary
        return matrix.sum() / (truth.size - 1)
    total = 0.0
    for value, true_value in zip(binary.ravel().astype(float), truth.ravel().astype(float), strict=True):
        off, true_off = value - binary.mean(), true_value - truth.mean()
        total += (1 + 2 * off * true_off / (off**2 + true_off**2 + 2.2e-16)) ** 2 / 4
    return total / (truth.size - 1)


@pytest.mark.parametrize("name", MAPS)
def test_curves_are_those_of_each_threshold(name: str) -> None:
    prediction, truth = case(name)
    measures = measure_map(prediction, truth)
    levels = np.floor(prediction * 255).astype(int)
    for row, threshold in list(enumerate(range(255, -1, -1)))[::17]:
        binary = levels >= threshold
        hits = int((binary & truth).sum())
        precision, recall = hits / max(binary.sum(), 1), hits / max(truth.sum(), 1)
        f = 0.0 if hits == 0 else 1.3 * precision * recall / (0.3 * precision + recall)
        assert measures.precision[row] == pytest.approx(precision) and measures.recall[row] == pytest.approx(recall)
        assert measures.f_curve[row] == pytest.approx(f)
        assert measures.e_curve[row] == pytest.approx(enhanced_alignment(binary, truth))
    adaptive = prediction >= min(2 * prediction.mean(), 1.0)
    assert measures.adaptive_e == pytest.approx(enhanced_alignment(adaptive, truth))
    assert measures.mae == pytest.approx(np.mean([abs(p - t) for p, t in zip(prediction.flat, truth.flat)]))  # noqa: B905


def test_a_perfect_map_and_its_opposite() -> None:
    truth = blob()
    best = measure_map(truth.astype(float), truth)
    assert best.mae == 0 and best.weighted_f == pytest.approx(1) and best.s == pytest.approx(1)
    assert best.adaptive_f == pytest.approx(1) and best.f_curve[:-1] == pytest.approx(np.ones(255))
    assert best.adaptive_e == pytest.approx(truth.size / (truth.size - 1))
    worst = measure_map(1.0 - truth, truth)
    assert worst.mae == 1 and worst.weighted_f < 0.01 and worst.adaptive_f == 0


def test_measures_by_hand() -> None:
    prediction, truth = np.array([[1.0, 0.5], [0.0, 0.0]]), np.array([[True, False], [False, False]])
    measures = measure_map(prediction, truth)
    assert measures.mae == pytest.approx(0.125)
    # Adaptive threshold 0.75: the true pixel alone
    assert measures.adaptive_f == pytest.approx(1.0)
    # Objects: 1 inside (mean 1, no deviation); outside mean 5/6 with deviation of (.5, 1, 1)
    outside = 2 * (5 / 6) / ((5 / 6) ** 2 + 1 + math.sqrt(1 / 12))
    # Regions: the centroid's part holds the true pixel alone (both flat: 1); of the others the one with 0.5 is
    # not flat while the truth is: alpha 0 and beta 0, since its mean is 0, so 1 as well
    assert measures.s == pytest.approx(0.5 * (0.25 * 1.0 + 0.75 * outside) + 0.5 * 1.0)
    empty, full = truth & False, truth | True
    assert measure_map(prediction, empty).s == pytest.approx(1 - 0.375) and weighted_f(prediction, empty) == 0
    assert measure_map(prediction, full).s == pytest.approx(0.375)


def test_means_over_maps_average_curves_first() -> None:
    measures = [measure_map(*case(name)) for name in ("noise", "blob", "empty")]
    figures = MapFigures.of(measures)
    curve = sum(of_map.f_curve for of_map in measures) / 3
    assert figures.max_f == pytest.approx(curve.max()) and figures.mean_f == pytest.approx(curve.mean())
    assert figures.max_f < np.mean([of_map.f_curve.max() for of_map in measures])
    assert figures.as_dict()["num_maps"] == 3


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match="alike"):
        measure_map(np.zeros((2, 3)), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        measure_map(np.full((2, 2), 2.0), np.zeros((2, 2), bool))
    assert stretched(np.array([[0.2, 0.4]])).tolist() == [[0.0, 1.0]] and stretched(np.ones((1, 2))).tolist() == [
        [1, 1]
    ]


# Of pysodmetrics 1.6.2 on the maps of `case` without stretching: MAE, weighted F, S, adaptive F, mean and max F,
# adaptive E, mean and max E
REFERENCE = {
    "noise": (
        0.4970396,
        0.292208653,
        0.344098528,
        0.0572687225,
        0.236919242,
        0.26458616,
        0.275028311,
        0.385009845,
        0.745402743,
    ),
    "blob": (
        0.20358104,
        0.554279958,
        0.740488418,
        0.811594203,
        0.617519399,
        0.815279361,
        0.935235262,
        0.710674059,
        0.935235262,
    ),
    "inverse": (1, 0.0026746238, 0, 0, 0.000927695592, 0.237490071, 1.81970517e-30, 0.000979305653, 0.250702247),
    "empty": (0.499027846, 0, 0.500972154, 0, 0, 0, 1, 0.500416959, 1),
    "full": (0.481627945, 0.815516749, 0.518372055, 0.0120259019, 0.746381188, 1, 0.00280898876, 0.5217148, 1.00280899),
    "flat": (0.501202834, 0.224788509, 0.399419932, 0, 0.119672731, 0.237490071, 0.250702247, 0.250702247, 0.250702247),
    "one pixel": (
        0.511792168,
        0.00492793865,
        0.321364787,
        0,
        0.00210371491,
        0.0065228299,
        0.250702247,
        0.250850142,
        0.807524707,
    ),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_values_of_pysodmetrics(name: str) -> None:
    figures = MapFigures.of([measure_map(*case(name))])
    names = ("mae", "weighted_f", "s", "adaptive_f", "mean_f", "max_f", "adaptive_e", "mean_e", "max_e")
    assert [getattr(figures, key) for key in names] == pytest.approx(REFERENCE[name], abs=1e-6)


def of_reference(prediction: np.ndarray, truth: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """What pysodmetrics says of one map: the nine values of `REFERENCE`, and the four curves."""
    reference = pytest.importorskip("py_sod_metrics", reason="pip install 'weaksam[sod]' to compare with pysodmetrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measures = [
            kind() for kind in (reference.MAE, reference.WeightedFmeasure, reference.Smeasure, reference.Fmeasure)
        ]
        measures.append(reference.Emeasure())
        for measure in measures:
            measure.step(prediction.astype(np.float64), truth, normalize=False)
    mae, weighted, structure, f, e = (measure.get_results() for measure in measures)
    f_curve, e_curve = f["fm"]["curve"], e["em"]["curve"]
    values = [mae["mae"], weighted["wfm"], structure["sm"], f["fm"]["adp"], f_curve.mean(), f_curve.max()]
    values += [e["em"]["adp"], e_curve.mean(), e_curve.max()]
    return [float(value) for value in values], [f_curve, e_curve, f["pr"]["p"], f["pr"]["r"]]


@pytest.mark.parametrize("name", [name for name in MAPS if name != "last corner"])  # where it divides by 0
def test_agrees_with_pysodmetrics(name: str) -> None:
    prediction, truth = case(name)
    values, curves = of_reference(prediction, truth)
    measures = measure_map(prediction, truth)
    figures = MapFigures.of([measures])
    names = ("mae", "weighted_f", "s", "adaptive_f", "mean_f", "max_f", "adaptive_e", "mean_e", "max_e")
    assert [getattr(figures, key) for key in names] == pytest.approx(values, abs=1e-6)
    for curve, wanted in zip(
        (measures.f_curve, measures.e_curve, measures.precision, measures.recall), curves, strict=True
    ):
        assert curve == pytest.approx(wanted, abs=1e-6)


def test_agrees_with_pysodmetrics_on_real_masks(shared_data) -> None:
    for path in sorted((shared_data / "camo_like31" / "masks").glob("*.png"))[:6]:
        truth = read_mask(path)[::4, ::4]
        grown = Image.fromarray((truth * 255).astype(np.uint8)).rotate(4, translate=(3, 2)).reduce(3)
        prediction = np.asarray(grown.resize(truth.shape[::-1])) / 255
        values, _ = of_reference(prediction, truth)
        figures = MapFigures.of([measure_map(prediction, truth)])
        names = ("mae", "weighted_f", "s", "adaptive_f", "mean_f", "max_f", "adaptive_e", "mean_e", "max_e")
        assert [getattr(figures, key) for key in names] == pytest.approx(values, abs=1e-6)
