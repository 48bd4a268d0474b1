"""Go backward through a graph of fake tensors, for which torch's own engine wants a GPU that is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction


def backward(
    loss: Tensor, gradient: Tensor | None = None, *_: Any, inputs: Sequence[Tensor] | None = None, **__: Any
) -> None:
    """As ``Tensor.backward`` without hooks: add the gradients of ``loss`` to the leaves, or to ``inputs`` among them.

    Nodes are torch's own; gradients are cast, summed and checked between them as its engine does. Raises
    `RuntimeError` for a gradient that lies on another device than what it is of.
    """
    wanted = None if inputs is None else {id(tensor) for tensor in inputs}
    waiting: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
    assert loss.grad_fn is not None
    waiting[loss.grad_fn][0] = torch.ones_like(loss) if gradient is None else gradient
    with torch.no_grad():
        for node in _in_order(loss.grad_fn):
            received = waiting.pop(node, {})
            if not received:
                continue
            if hasattr(node, "variable"):
                if wanted is None or id(node.variable) in wanted:
                    _accumulate(node.variable, received[0])
                continue
            for (after, number), sent in zip(node.next_functions, _sent_by(node, received), strict=True):
                if after is None or sent is None:
                    continue
                sent = _as_wanted(sent, after, number)
                before = waiting[after].get(number)
                waiting[after][number] = sent if before is None else before + sent


def _in_order(root: Any) -> list[Any]:
    """Every node of the graph, each before those that it sends to."""
    order, seen, stack = [], {root}, [(root, iter(root.next_functions))]
    while stack:
        node, rest = stack[-1]
        for after, _ in rest:
            if after is not None and after not in seen:
                seen.add(after)
                stack.append((after, iter(after.next_functions)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def _sent_by(node: Any, received: dict[int, Tensor]) -> Sequence[Tensor | None]:
    """What a node sends on, for each of its next functions."""
    of_outputs = node._input_metadata
    gradients: list[Tensor | None] = [received.get(number) for number in range(len(of_outputs))]
    if not isinstance(node, BackwardCFunction):
        sent = node(*gradients)
    else:  # a function of Python gets zeros for what is missing
        zeros = (
            torch.zeros(output.shape, dtype=output.dtype, device=output.device) if gradient is None else gradient
            for output, gradient in zip(of_outputs, gradients, strict=True)
        )
        sent = node.apply(*zeros)
    sent = sent if isinstance(sent, (tuple, list)) else (sent,)
    num = len(node.next_functions)
    assert all(rest is None for rest in sent[num:]), f"{node}: wanted the inputs with a gradient first"
    return sent[:num]


def _as_wanted(gradient: Tensor, node: Any, number: int) -> Tensor:
    """The gradient in the shape and type of what it is of."""
    wanted = _described(node, number)
    if gradient.device != wanted.device:
        if gradient.dim() > 0:
            raise RuntimeError(f"{node}: wanted a gradient on {wanted.device}, found one on {gradient.device}")
        gradient = gradient.to(wanted.device)
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(tuple(wanted.shape))
    return gradient.to(wanted.dtype)


def _described(node: Any, number: int) -> Any:
    """Shape, type and device of what a node's gradient number ``number`` is of."""
    return node.variable if hasattr(node, "variable") else node._input_metadata[number]


def _accumulate(variable: Tensor, gradient: Tensor) -> None:
    variable.grad = gradient.detach() if variable.grad is None else variable.grad + gradient
