"""Files on disk to images, tags and instances, and back."""
