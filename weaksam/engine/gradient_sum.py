"""Sum up gradients and losses of a training step over the processes that compute it together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weaksam.models.ranks import Ranks


class GradientSum:
    """Sums the gradients of ``parameters`` and the losses over all ranks, in one exchange of one flat buffer a step.

    A parameter that no rank has a gradient of keeps none, so that optimizers pass it over as in one process. The names
    of losses are agreed on in the first step in which any rank has some; a rank may lack them in later steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.parameters, self.ranks = [p for p in parameters if p.requires_grad], ranks
        self.names: tuple[str, ...] = ()
        self.figures: frozenset[str] = frozenset()

    def over_ranks(
        self, losses: dict[str, Tensor], figures: frozenset[str]
    ) -> tuple[dict[str, Tensor], frozenset[str]]:
        """Set the gradients to their sums over all ranks that count; returns the losses' sums and which are figures.

        None of them where no rank has losses. All ranks call this together; alone nothing changes.
        """
        if self.ranks.size == 1:
            return losses, figures
        if not self.names:
            self._agree_on_names(losses, figures)
        assert set(losses) <= set(self.names), f"wanted the losses {self.names} in every step, found {tuple(losses)}"
        has_gradient = [int(parameter.grad is not None) for parameter in self.parameters]
        has_loss = [int(name in losses) for name in self.names]
        # By way of the CPU, so that no GPU is waited for
        somewhere = self.ranks.sum(torch.tensor([*has_gradient, *has_loss])).tolist()
        if not any(somewhere):
            return {}, frozenset()
        buffer = self._packed(losses)
        dist.all_reduce(buffer)
        return self._unpacked(buffer, somewhere), self.figures

    def _agree_on_names(self, losses: dict[str, Tensor], figures: frozenset[str]) -> None:
        """Take the names of the lowest rank that has losses."""
        of_ranks = self.ranks.of_all((tuple(losses), figures))
        self.names, self.figures = next((pair for pair in of_ranks if pair[0]), ((), frozenset()))

    def _packed(self, losses: dict[str, Tensor]) -> Tensor:
        """This rank's gradients and losses in a row, 0 where there are none or its photos do not count."""
        dtype = max((p.dtype for p in self.parameters), key=lambda kind: torch.finfo(kind).bits)
        num = sum(parameter.numel() for parameter in self.parameters)
        buffer = torch.zeros(num + len(self.names), dtype=dtype, device=self.parameters[0].device)
        if self.ranks.counts:
            for parameter, place in zip(self.parameters, self._places(buffer), strict=True):
                if parameter.grad is not None:
                    place.copy_(parameter.grad)
            for name, value in losses.items():
                buffer[num + self.names.index(name)] = value.detach()
        return buffer

    def _places(self, buffer: Tensor) -> list[Tensor]:
        """The part of the buffer for each gradient, in its shape."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = buffer[: sum(sizes)].split(sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    def _unpacked(self, buffer: Tensor, somewhere: Sequence[int]) -> dict[str, Tensor]:
        """Set the gradients, and return the losses, that any rank has, from the buffer that holds the sums."""
        for parameter, place, has_gradient in zip(self.parameters, self._places(buffer), somewhere, strict=False):
            if not has_gradient:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.empty_like(parameter).copy_(place)
            else:
                parameter.grad.copy_(place)
        sums = buffer[len(buffer) - len(self.names) :]
        has_losses = somewhere[len(self.parameters) :]
        return {name: value for name, value, has in zip(self.names, sums, has_losses, strict=True) if has}
