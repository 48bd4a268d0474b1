"""Choose the precision of a forward pass, and give Adam the loss scale that float16 needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_FIRST_SCALE, _STEPS_TO_DOUBLE = 2.0**14, 2000
_SCALE, _GOOD_STEPS = "loss_scale", "good_steps"


def forward_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that a forward pass on ``device`` computes in.

    ``auto`` is bfloat16 on a GPU that has it, float16 on one that does not, and float32 elsewhere.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """A context in which ``device`` computes in ``dtype``; float32 changes nothing."""
    return torch.autocast(device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)


class ScaledAdam(torch.optim.Adam):
    """Adam whose losses may be scaled, so that small gradients survive float16.

    ``weight_decay`` is added to the gradient (L2), or, if ``decoupled``, shrinks the weights as AdamW does. Without
    ``half`` it is Adam. With it, `scaled` lets losses send back gradients that many times larger, and `step` undoes
    it; a step whose gradients overflowed is left out and the scale halved, after 2000 good steps it doubles. The scale
    lies in the optimizer's state, so that a resumed training has it. With ``half`` every step waits for the device,
    which alone knows whether its gradients are finite.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        half: bool = False,
        decoupled: bool = False,
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, eps=1e-8, decoupled_weight_decay=decoupled)
        self.half = half

    @property
    def loss_scale(self) -> float:
        """By how much losses are scaled now; 1 without ``half``."""
        return float(self._scale_state()[_SCALE]) if self.half else 1.0

    def scaled(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses, unchanged in value, whose gradients come back times the scale.

        For the parts of a batch in turn, call it on each part's losses; the scale changes in `step` alone.
        """
        if self.half:
            scale = self.loss_scale
            for loss in losses.values():
                if loss.requires_grad:
                    loss.register_hook(lambda gradient: gradient * scale)
        return dict(losses)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of Adam on unscaled gradients, or none where they overflowed."""
        if not self.half:
            super().step(closure)
            return
        scale, state = self.loss_scale, self._scale_state()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(scale)
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            super().step(closure)
            good_steps = int(state[_GOOD_STEPS]) + 1
            state[_SCALE], state[_GOOD_STEPS] = scale * (2 if good_steps % _STEPS_TO_DOUBLE == 0 else 1), good_steps
        else:
            state[_SCALE], state[_GOOD_STEPS] = scale / 2, 0

    def _scale_state(self) -> dict[str, Any]:
        """The state that holds the scale: of no parameter, or of one in files of older versions."""
        kept = next((state for state in self.state.values() if _SCALE in state), None)
        if kept is None:
            kept = self.state["scale"] = {_SCALE: _FIRST_SCALE, _GOOD_STEPS: 0}  # type: ignore[index]
        return kept


class ScaledAdamW(ScaledAdam):
    """`ScaledAdam` with the decoupled weight decay of AdamW."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        half: bool = False,
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, half=half, decoupled=True)
