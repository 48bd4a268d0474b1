"""sam_nano: the bundled Segment Anything model at toy size."""
