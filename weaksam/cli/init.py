"""Write a config that fits a folder of photos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from weaksam.terminal import printable, say

HEAD = """# Written by `weaksam init {folder}`; every key: `weaksam settings`. Run it: weaksam run {config}
"""
SEGMENTER = """segmenter:
  weights: null  # for real work a SAM checkpoint such as sam_vit_b_01ec64.pth, or a hub id: docs/segmenters.md
"""


def init(
    folder: Annotated[Path, typer.Argument(help="folder of your photos, with their tags or labels below it")],
    config: Annotated[Path, typer.Option(help="YAML file to write")] = Path("run.yaml"),
    out: Annotated[
        Path | None, typer.Option(help="folder of the run's results; else work_dirs/<folder's name>")
    ] = None,
    force: Annotated[bool, typer.Option(help="overwrite the YAML file")] = False,
) -> None:
    """Look at a folder, say what a run would take from it, and write the config for it; asks nothing.

    Photos, tags (CSV, JSON, JSONL, class folders, VOC lists) and true boxes (COCO, VOC, YOLO) are recognised by their
    content and names. Nothing in the folder is changed.
    """
    import yaml

    from weaksam.config import UserError
    from weaksam.data.finding_data import find_splits
    from weaksam.store.files import write_text_atomic

    if config.exists() and not force:
        raise UserError(f"wanted to write {config}, found it there already: name another one with --config, or --force")
    splits = find_splits(folder)
    for split, of_split in splits.items():
        labels = [
            f"{what} {path}" for what, path in (("tags", of_split.tags), ("true objects", of_split.truth)) if path
        ]
        named = "folders named after classes" if of_split.num_labelled and not labels else " and ".join(labels)
        sources = f"; {named}, which name {of_split.num_labelled} of them" if named else ""
        say(f"{split}: {of_split.num_photos} photos in {of_split.images}{sources}")
    data = {split: of_split.settings() for split, of_split in splits.items()}
    values = {"data": data, "out": (out or Path("work_dirs") / (folder.resolve().name or "run")).as_posix()}
    untagged = splits["train"].num_labelled == 0
    if untagged:
        values["data"] = {**data, "without_tags": True}
    head = HEAD.format(folder=printable(os.fspath(folder)), config=printable(os.fspath(config)))
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_text_atomic(config, head + body + SEGMENTER)
    say(f"written: {config}")
    if untagged:
        say("train: no tags were found, so only proposals can be made")
        say("to train, write a table 'file,tags' (a.jpg,apple;banana) beside the photos and run this again")
        say(f"next: weaksam proposals {config}")
    else:
        say(f"next: weaksam data check {config}, then weaksam run {config}")
