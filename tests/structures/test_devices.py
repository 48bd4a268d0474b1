"""Tensors moved together keep their values, shapes and gradients; reading counts as waiting where it is said to."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from weaksam.structures.boxes import batched_nms, nms_first_seen
from weaksam.structures.devices import (
    in_float64,
    moved_together,
    pinned,
    reading_is_free,
    reading_waits_everywhere,
)

CPU, META = torch.device("cpu"), torch.device("meta")


def test_tensors_that_lie_there_stay_as_they_are() -> None:
    tensors = [torch.rand(3, 4), torch.arange(5), torch.zeros(0, 4)]
    assert all(after is before for after, before in zip(moved_together(tensors, CPU), tensors, strict=True))
    assert moved_together([], CPU) == []
    assert pinned(tensors[0], CPU) is tensors[0]


def test_tensors_of_one_type_go_in_one_copy_and_come_out_in_their_shapes() -> None:
    tensors = [torch.rand(3, 4), torch.arange(5), torch.zeros(0, 4), torch.tensor(2), torch.rand(2, 2, 2).half()]
    moved = moved_together(tensors, META)
    assert [tensor.shape for tensor in moved] == [tensor.shape for tensor in tensors]
    assert [tensor.dtype for tensor in moved] == [tensor.dtype for tensor in tensors]
    assert all(tensor.device.type == "meta" for tensor in moved)
    assert moved[0].untyped_storage().nbytes() == 12 * 4  # with the empty one
    assert moved[1].untyped_storage().nbytes() == 6 * 8  # five and one whole numbers


def test_reading_is_free_on_the_cpu_alone_and_there_unless_said_otherwise() -> None:
    assert reading_is_free(CPU) and not reading_is_free(META)
    with reading_waits_everywhere():
        assert not reading_is_free(CPU)
    assert reading_is_free(CPU)


def test_float64_is_computed_where_there_is_some() -> None:
    """Apple's GPU has none: there on the CPU. Nothing is computed here, as torch's fake tensors know only devices."""
    assert in_float64(torch.ones(2, dtype=torch.float32)).dtype == torch.float64
    with FakeTensorMode(allow_non_fake_inputs=True):
        exact = in_float64(torch.empty(3, 4, device="mps"))
    assert (exact.dtype, exact.device.type) == (torch.float64, "cpu")


def test_suppression_of_boxes_elsewhere_gives_indices_there() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert nms_first_seen(boxes, 0.5).tolist() == [0, 2]
    labels, scores = torch.tensor([0, 1, 0]), torch.tensor([0.1, 0.2, 0.3])
    assert batched_nms(boxes, scores, labels, 0.5).tolist() == [2, 1, 0]
