"""The region tree: hierarchical watersheds and merged superpixels that answer prompts."""
