"""The DINO network equals mmdet's on a golden file, keeps its own outputs, and knows padding from photo."""

import re

import pytest
import torch
from torch import Tensor

from tests.models.detectors.dino.toys import (
    GOLDEN,
    GOLDEN_SHAPE,
    SIZES,
    SMALL_SHAPE,
    golden_tensors,
    images,
    mmdet_names,
    resnet18,
    small_network,
)
from weaksam.config import UserError
from weaksam.models.detectors.dino.detector import detections
from weaksam.models.detectors.dino.losses import matching_losses
from weaksam.models.detectors.dino.names import is_mmdet_dino, our_names
from weaksam.models.detectors.dino.network import DinoNetwork
from weaksam.models.detectors.dino.positions import PyramidAreas, inverse_sigmoid
from weaksam.models.query.targets import QueryTargets
from weaksam.store.weights import load_into, load_state, save_weights


def test_every_layer_prediction_and_loss_equals_mmdets(shared_data) -> None:
    if not (shared_data / GOLDEN).is_file():
        pytest.skip(f"mmdet's outputs are not at {shared_data / GOLDEN}")
    golden = golden_tensors(shared_data)
    network = DinoNetwork(resnet18(8), GOLDEN_SHAPE, 5).eval()
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    assert is_mmdet_dino(weights)
    load_into(network, our_names(weights, "the toy"), "the toy")
    sizes = [(int(h), int(w)) for h, w in golden["valid_sizes"]]
    with torch.no_grad():
        for number, level in enumerate(network.neck(network.backbone(golden["input"]))):
            check_close(f"level {number} of the pyramid", level, golden[f"neck_{number}"])
        outputs = network.predictions(golden["input"], sizes)
        for layer in range(2):
            check_close(f"logits of layer {layer}", outputs.logits[layer], golden["decoder_logits"][layer])
            check_close(f"boxes of layer {layer}", outputs.boxes[layer], golden["decoder_boxes"][layer])
        truth = [{"boxes": golden[f"gt{photo}/boxes"], "labels": golden[f"gt{photo}/labels"] + 1} for photo in (0, 1)]
        targets = QueryTargets.of(truth, sizes, torch.device("cpu"))
        losses = matching_losses(outputs.logits, outputs.boxes, targets).reduced()
    for layer in range(2):
        check_close(f"losses of layer {layer}", losses[layer], golden[f"loss{layer}"])
    for photo, ours in enumerate(detections(outputs.logits[-1], outputs.boxes[-1], sizes, 0.0, 30)):
        for name in ("boxes", "scores"):
            check_close(f"{name} of photo {photo}'s detections", ours[name], golden[f"pred{photo}/{name}"])
        assert torch.equal(ours["labels"] - 1, golden[f"pred{photo}/labels"])


def check_close(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-4; prints the largest difference, for the table of docs/results/query_detectors.md."""
    print(f"| {name} | {float((ours - theirs).abs().max()):.1e} | {float(theirs.abs().max()):.3g} |")
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-4)


@torch.no_grad()
def even_weights(network: DinoNetwork) -> None:
    """Weights that follow from their place alone, whatever the version of torch draws."""
    for number, (name, value) in enumerate(network.state_dict().items()):
        place = torch.arange(value.numel(), dtype=torch.float64).view(value.shape)
        drawn = ((place * 12.9898 + number).sin() * 43758.5453).frac()
        if name.endswith("running_var"):
            value.copy_(drawn.abs() + 0.5)
        elif value.ndim == 1:
            value.copy_(
                drawn * 0.1 + (1.0 if re.search(r"(norms?(\.\d)?|gn|bn\d|0\.1|downsample\.1)\.weight", name) else 0.0)
            )
        else:
            value.copy_(drawn * (3.0 / value[0].numel()) ** 0.5)


def test_a_file_in_mmdets_names_gives_the_outputs_it_always_gave(tmp_path) -> None:
    source = small_network(3)
    even_weights(source)
    save_weights(tmp_path / "dino.safetensors", mmdet_names(source))
    network = small_network(3, seed=5).eval()
    load_into(network, our_names(load_state(tmp_path / "dino.safetensors"), "the toy"), "the toy")
    grid = torch.linspace(-1, 1, 2 * 3 * 80 * 96).view(2, 3, 80, 96)
    with torch.no_grad():
        outputs = network.predictions((grid * 40).sin(), SIZES)
    assert outputs.logits.shape == (2, 2, 12, 3) and outputs.boxes.shape == (2, 2, 12, 4)
    values = [outputs.logits.mean(), outputs.logits.std(), outputs.logits[1, 1, 3, 2], outputs.encoder_logits.max()]
    values += [outputs.boxes.mean(), outputs.boxes[1, 0, 2, 1], outputs.encoder_boxes[1, 4, 3]]
    assert [float(value) for value in values] == pytest.approx(
        [-0.582399, 1.348726, -1.933325, 2.128226, 0.387533, 0.717167, 0.061732], abs=1e-4
    )


def test_a_name_without_a_place_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"the tensor 'mask_head\.weight', which has no place") as caught:
        our_names({"mask_head.weight": torch.zeros(1)}, "retrain.init (x.pth)")
    assert "\n" not in str(caught.value)


def test_padding_changes_nothing_in_the_encoder() -> None:
    network = small_network().eval()
    levels = [
        torch.randn(1, 32, h, w, generator=torch.Generator().manual_seed(h))
        for h, w in ((8, 6), (4, 3), (2, 2), (1, 1))
    ]
    alone = network.decode(levels, (64, 48), [(64, 48)])
    padded = [torch.nn.functional.pad(level, (0, level.shape[3], 0, level.shape[2]), value=9.0) for level in levels]
    beside = network.decode(padded, (128, 96), [(64, 48)])
    # The decoder's queries do know of it: their position is that in the padded photo, as in mmdet
    torch.testing.assert_close(alone.encoder_logits, beside.encoder_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.encoder_boxes, beside.encoder_boxes, rtol=1e-4, atol=1e-5)


def test_areas_by_hand() -> None:
    # A photo of 40 x 20 pixels in a batch of 40 x 32: of four columns of 8 pixels the third begins at 16, inside
    areas = PyramidAreas.of([(5, 4), (3, 2)], (40, 32), [(40, 20), (40, 32)], torch.device("cpu"))
    assert areas.valid.tolist() == [[[3, 5], [2, 3]], [[4, 5], [2, 3]]]
    assert areas.ratios[0, 0].tolist() == [0.75, 1]
    assert areas.points[0, 0].tolist() == pytest.approx([0.5 / 3, 0.1])
    assert areas.padding is not None and areas.padding[0].nonzero()[:, 0].tolist() == [3, 7, 11, 15, 19]
    logits, proposing = areas.proposals()
    assert proposing[0].tolist() == (~areas.padding[0]).tolist()
    assert logits[0, 0].sigmoid().tolist() == pytest.approx([0.5 / 3, 0.1, 0.05, 0.05])
    assert logits[1, -1].sigmoid().tolist() == pytest.approx([0.75, 2.5 / 3, 0.1, 0.1])
    assert torch.isinf(logits[0, 3]).all()


def test_more_queries_than_cells_become_as_many_as_there_are_cells() -> None:
    network = small_network(shape=SMALL_SHAPE.model_copy(update={"num_queries": 500})).eval()
    outputs = network.predictions(torch.randn(1, 3, 32, 32), [(32, 32)])
    assert outputs.boxes.shape == (2, 1, 16 + 4 + 1 + 1, 4) and bool(outputs.boxes.isfinite().all())


@pytest.mark.parametrize("num_levels", [3, 5])
def test_other_numbers_of_levels(num_levels: int) -> None:
    network = small_network(shape=SMALL_SHAPE.model_copy(update={"num_levels": num_levels})).eval()
    assert [level.shape[2] for level in network.neck(network.backbone(images()))] == [10, 5, 3, 2, 1][:num_levels]
    assert bool(network.predictions(images(), SIZES).logits.isfinite().all())


def test_chosen_cells_are_those_that_score_highest_and_get_the_gradient() -> None:
    network = small_network()
    outputs = network.predictions(images(), SIZES)
    memory_gradients = torch.autograd.grad(outputs.encoder_logits.sum(), network.memory_trans_fc.weight)
    assert memory_gradients[0].any()
    scores = outputs.encoder_logits.amax(-1)
    assert bool((scores[:, :-1] >= scores[:, 1:] - 1e-6).all())


def test_boxes_of_a_layer_teach_the_layer_before_but_no_further() -> None:
    network = small_network(shape=SMALL_SHAPE.model_copy(update={"decoder_layers": 3}))
    outputs = network.predictions(images(), SIZES)
    final = [branch[-1].weight for branch in network.bbox_head.reg_branches[:3]]
    of_last = torch.autograd.grad(outputs.boxes[2].sum(), final, retain_graph=True)
    assert not of_last[0].any() and of_last[1].any() and of_last[2].any()
    of_first = torch.autograd.grad(outputs.boxes[0].sum(), final)
    assert of_first[0].any() and not of_first[1].any() and not of_first[2].any()


def test_inverse_sigmoid_is_finite_at_its_ends() -> None:
    logits = inverse_sigmoid(torch.tensor([0.0, 0.5, 1.0, 2.0]), 1e-3)
    assert logits.tolist() == pytest.approx([-6.9078, 0, 6.9078, 6.9078], abs=1e-4)
