"""Values and pure geometry: boxes, masks, run-length encoding, instances."""
