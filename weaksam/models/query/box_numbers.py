"""Turn the matching of layers and photos into the true box of every query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weaksam.models.query.matching import NO_QUERY, match_queries

UNMATCHED = -1
"""Number of the true box of a query that is matched to none."""


def matched_boxes(costs: Tensor, counts: Sequence[int]) -> Tensor:
    """Number ``(M, B, N)`` of the true box that each of N queries is matched to, else `UNMATCHED`.

    ``costs`` (M, B, N, T) of M sets of predictions for B photos that have ``counts`` of the T boxes. A photo of more
    boxes than queries leaves boxes without a query; without boxes all are unmatched.
    """
    sets, photos, num_queries, _ = costs.shape
    of_photos = [costs[number, photo, :, :count] for number in range(sets) for photo, count in enumerate(counts)]
    padded = pad_sequence(match_queries(of_photos), batch_first=True, padding_value=NO_QUERY)
    query = padded.view(sets, photos, -1)  # (M, B, T)
    numbers = torch.full((sets, photos, num_queries + 1), UNMATCHED, device=costs.device)
    number = torch.arange(query.shape[2], device=costs.device).expand_as(query)
    return numbers.scatter_(2, query.masked_fill(query == NO_QUERY, num_queries), number)[..., :num_queries]
