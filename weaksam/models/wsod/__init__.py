"""The network of the weakly supervised detector: streams, refinement branches, targets and losses."""
