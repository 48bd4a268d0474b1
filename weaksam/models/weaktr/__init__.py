"""WeakTr: a plain vision transformer with a token per class."""
