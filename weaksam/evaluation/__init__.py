"""Measure results against true objects: the metrics of the field, the stages of a run, and files of any tool."""
