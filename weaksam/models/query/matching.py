"""Match queries to objects, each object to one query, at the least total cost (Hungarian matching)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from weaksam.structures.devices import moved_together

NO_QUERY = -1
"""Stands for the query of an object that got none: there were more objects than queries."""
_WORST = 1e9
"""Cost that stands for one that is not finite, so that such a pair is matched last."""


def match_queries(costs: Sequence[Tensor]) -> list[Tensor]:
    """Query of every object, int64 ``(N,)``, of each of ``costs`` (Q, N); `NO_QUERY` where the queries are used up.

    No gradient. All costs (of photos and decoder layers, say) are brought to the CPU in one copy, matched by scipy, and
    the answers go back in one. N = 0 and Q = 0 match nothing.
    """
    if not costs:
        return []
    device = costs[0].device
    flat = torch.cat([cost.detach().float().flatten() for cost in costs]).cpu()
    flat = torch.nan_to_num(flat, nan=_WORST, posinf=_WORST, neginf=-_WORST)
    parts = flat.split([cost.numel() for cost in costs])
    matched = [_match(part.view(cost.shape).numpy()) for part, cost in zip(parts, costs, strict=True)]
    return moved_together(matched, device)


def _match(cost: np.ndarray) -> Tensor:
    """Query of every object ``(N,)`` by the costs ``(Q, N)``."""
    from scipy.optimize import linear_sum_assignment  # here, as only trainings match and it is slow to import

    query_of = torch.full((cost.shape[1],), NO_QUERY)
    queries, objects = linear_sum_assignment(cost)
    query_of[torch.from_numpy(objects)] = torch.from_numpy(queries)
    return query_of
