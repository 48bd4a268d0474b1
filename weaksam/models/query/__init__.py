"""What detectors of object queries share: deformable attention, matching and losses of queries."""
