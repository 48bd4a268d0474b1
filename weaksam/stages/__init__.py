"""The stages of the method, from clues to instance segmentation: a package each, and their names in order."""

STAGE_NAMES = ("clues", "proposals", "wsod", "pseudo_gt", "retrain", "wsis")
"""The stages in the order in which they run; this module imports nothing, so that the command line can list them."""
