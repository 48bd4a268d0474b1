"""weaksam: image tags in; boxes, masks and trained detectors out, by prompting a frozen Segment Anything model."""

__version__ = "0.1.0"
