"""Rendered scenes with exact boxes and masks, for the demo, the tests and the bundled networks."""
