"""Say in ONNX's operators what its exporter cannot: suppression, and how often rows are repeated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from weaksam.models.exported.suppression import kept_boxes  # noqa: F401 (registers the operator)


def translations() -> dict[Any, Callable[..., Any]]:
    """Functions that build ONNX's nodes, by the operator of torch that they stand for."""
    return {
        torch.ops.weaksam.kept_boxes.default: kept_boxes_in_onnx,
        torch.ops.aten.repeat_interleave.Tensor: repeated_rows_in_onnx,
    }


def kept_boxes_in_onnx(boxes: Any, scores: Any, nms_iou: float) -> Any:
    """`kept_boxes` as ONNX's NonMaxSuppression, whose list of indices becomes a mask."""
    import onnx  # here, as only exports need it
    from onnxscript import opset18 as op

    of_one_class = op.Unsqueeze(scores, [1])  # (G, 1, N)
    chosen = op.NonMaxSuppression(boxes, of_one_class, [sys.maxsize], [nms_iou], [0.0])  # (M, 3): group, class, box
    place = op.Gather(chosen, [0, 2], axis=1)  # (M, 2)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(chosen, start=0, end=1))
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.Cast(op.ScatterND(nothing, place, ones), to=onnx.TensorProto.BOOL)


def repeated_rows_in_onnx(repeats: Any, output_size: int) -> Any:
    """Number of the row ``(output_size,)`` that stands at each place where row i stands ``repeats[i]`` times."""
    import onnx
    from onnxscript import opset18 as op

    ends = op.CumSum(repeats, op.Constant(value_int=0))  # the place behind each row's last one
    places = op.Constant(value_ints=list(range(output_size)))
    passed = op.GreaterOrEqual(op.Unsqueeze(places, [1]), op.Unsqueeze(ends, [0]))
    return op.ReduceSum(op.Cast(passed, to=onnx.TensorProto.INT64), [1], keepdims=0)
