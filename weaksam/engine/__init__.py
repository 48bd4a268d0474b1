"""Training loop, state, precision, schedules, ranks, seeds and log, and the training of detectors; knows no method."""
