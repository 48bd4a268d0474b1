"""Tag classifiers whose weights turn feature maps into class activation maps."""
