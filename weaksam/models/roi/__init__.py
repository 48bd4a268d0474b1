"""RoIs: pooling their features, and offsets from a RoI to its object."""
