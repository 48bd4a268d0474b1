"""Train in 16 bits where the device can: which kind, and AdamW with a loss scale that float16 needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_FIRST_SCALE, _STEPS_TO_DOUBLE = 2.0**14, 2000


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


class ScaledAdamW(torch.optim.AdamW):
    """AdamW whose losses may be scaled, so that small gradients survive float16.

    Without ``half`` it is AdamW. With it, `scaled` lets losses send back gradients that many times larger, and `step`
    undoes it; a step whose gradients overflowed is left out and the scale halved, after 2000 good steps it doubles.
    The scale lies in the optimizer's state, so that a resumed training has it.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, half: bool = False
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, eps=1e-8)
        self.half, self._scale, self._good_steps = half, _FIRST_SCALE, 0

    @property
    def loss_scale(self) -> float:
        """By how much losses are scaled now; 1 without ``half``."""
        if not self.half:
            return 1.0
        kept = self._kept_state()
        return float(kept["loss_scale"]) if kept is not None else self._scale

    def scaled(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses, unchanged in value, whose gradients come back times the scale."""
        if self.half:
            scale = self.loss_scale
            for loss in losses.values():
                loss.register_hook(lambda gradient: gradient * scale)
        return dict(losses)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of AdamW on unscaled gradients, or none where they overflowed."""
        if not self.half:
            super().step(closure)
            return
        scale, kept = self.loss_scale, self._kept_state()
        good_steps = int(kept["good_steps"]) if kept is not None else self._good_steps
        gradients = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
        for gradient in gradients:
            gradient.div_(scale)
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            super().step(closure)
            good_steps += 1
            if good_steps % _STEPS_TO_DOUBLE == 0:
                scale = 2 * scale
        else:
            scale, good_steps = scale / 2, 0
        self._keep(scale, good_steps)

    def _kept_state(self) -> dict[str, Any] | None:
        return next((state for state in self.state.values() if "loss_scale" in state), None)

    def _keep(self, scale: float, good_steps: int) -> None:
        """Put the scale into the state of the first parameter that has one; AdamW makes it in its first step."""
        self._scale, self._good_steps = scale, good_steps
        state = self._kept_state() or next((one for one in self.state.values() if one), None)
        if state is not None:
            state["loss_scale"], state["good_steps"] = torch.tensor(scale), torch.tensor(float(good_steps))
