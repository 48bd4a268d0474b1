"""List the commands that read each kind of file, as hostile inputs are given to all of them."""

from __future__ import annotations

Command = tuple[str, ...]

IMAGES = ("--images", "photos")
RUN = ("run", "data.train.images=photos", "out=out", "backbone.weights=none", "segmenter.family=tree")


def on_tags(path: str, images: str = "photos") -> list[Command]:
    """Commands that read a file or folder of tags."""
    return [
        ("data", "check", "--images", images, "--tags", path),
        ("run", "--images", images, "--tags", path, "--out", "out"),
        ("eval", "--truth", "truth.json", "--detections", "results.json", "--tags", path),
    ]


def on_truth(path: str) -> list[Command]:
    """Commands that read true objects."""
    return [
        ("data", "check", *IMAGES, "--truth", path),
        (*RUN, f"data.train.truth={path}"),
        ("eval", "--truth", path, "--detections", "results.json", *IMAGES),
    ]


def on_results(path: str) -> list[Command]:
    """Commands that read detections."""
    return [("eval", "--truth", "truth.json", "--detections", path)]


def on_settings(path: str) -> list[Command]:
    """Commands that read a YAML file of settings."""
    return [("run", path), ("data", "check", path)]
