"""The frozen promptable segmenter: one protocol, several families."""
