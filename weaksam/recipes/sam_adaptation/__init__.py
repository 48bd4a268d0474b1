"""WeSAM: adapt a segmenter to a shifted domain with weak labels (Zhang et al., CVPR 2024)."""
