"""Pool the features of RoIs, and encode the offsets from a RoI to its object."""
