"""Small settings of the panorama recipe, and the weights that its runs train."""

from pathlib import Path

SMALL = (
    "assistant.variant=nano student.variant=nano threads=1 device=cpu windows.size=[32,64] max_masks=5 data.test=null "
    "assistant.steps=5 assistant.batch_size=1 rectification.steps=4 student.steps=4 student.batch_size=1"
)
"""Epochs of three photos, and of two panoramas."""


def weights_in(out: Path) -> dict[str, bytes]:
    """The bytes of all trained weights."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.glob("**/*.safetensors"))}
