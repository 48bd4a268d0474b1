"""The weakly supervised detector: streams, refinement branches, losses."""
