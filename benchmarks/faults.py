"""Damage a toy run in many small ways and count what is seen, what changes nothing, and what would be silent.

    python benchmarks/faults.py [--flips 12000] [--seed 0] [--json FILE] [--keep FOLDER]

One process makes a small run (clues, proposals, weak detector, pseudo ground truth, retrained detector), an unsealed
store and a training under way beside it. Then it flips single bits, one at a time, in every kind of file, and lets the
reader of that file read it: the flip is **seen** (refused, or the file is made again), **harmless** (what was read is
what was written), or **silent** (something else was read). Beside the flips: photos that are replaced, cut short and
removed between the stages, a full disk, and clocks that are wrong. Ends with exit code 1 where anything was silent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.pipeline.verifying import UNCHECKED, verify_run
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.records import read_record
from weaksam.store.sealed import open_sealed
from weaksam.store.store import Store
from weaksam.store.weights import load_state, read_metadata

SETTINGS = [
    *("threads=1", "device=cpu", "workers=1", "backbone.name=sam_nano", "segmenter.family=tree"),
    *("clues.long_side=64", "clues.finetune_epochs=1", "wsod.long_side=64", "wsod.num_proposals=20"),
    *("wsod.hidden=16", "wsod.reduced=8", "wsod.num_epochs=2", "retrain.num_epochs=1", "retrain.short_side=64"),
    *("retrain.long_side=64", "retrain.fpn_channels=8", "retrain.representation=8", "retrain.max_boxes=5"),
    *("retrain.rpn_pre_nms=100", "retrain.rpn_post_nms=50"),
]
"""A run in seconds; nothing of it is about the quality of the result."""
REFUSED = (UserError, OSError, SafetensorError)
"""What a reader raises for a damaged file, in one sentence or turned into one by its caller."""


class Target(NamedTuple):
    """A file to damage: its kind in the table, and what reads it; ``read`` gives a value that can be compared."""

    kind: str
    path: Path
    read: Callable[[], Any]


# The toy run and what lies beside it


def make_run(folder: Path, out: str = "out") -> RunSettings:
    """Make the toy run in ``folder / out`` on scenes that are rendered there; returns its settings."""
    if not (folder / "scenes").is_dir():
        scenes = SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1)
        write_dataset(folder / "scenes", scenes, 4, 1, seed=1)
    data = {"images": "train", "tags": "tags_train.json"}
    paths = [f"data.train.{name}={folder / 'scenes' / path}" for name, path in data.items()]
    settings = load_settings(RunSettings, None, [*SETTINGS, *paths, f"out={folder / out}"])
    with silenced():
        pipeline.run(settings, until="retrain")
    return settings


def half_filled_store(folder: Path) -> Store:
    """A store of three parts, two of them written, none sealed."""
    store = store_of(folder)
    for part in store.parts[:2]:
        store.write(part, map(row_of, part.image_ids))
    return store


def store_of(folder: Path) -> Store:
    columns = {"boxes": "boxes", "labels": "ints", "scores": "floats", "rles": "rles", "note": "str"}
    names = [f"{number:03d}.jpg" for number in range(24)]
    return Store(folder, stage="faults", fingerprint="f" * 64, image_ids=names, columns=columns, part_size=8)


def row_of(image_id: str) -> dict[str, Any]:
    number = int(image_id[:3])
    boxes = torch.arange(4.0 * number).reshape(-1, 4)
    masks = [{"size": [2, 3], "counts": f"0{number}"}] * number
    values = {"boxes": boxes, "labels": torch.arange(number), "scores": torch.linspace(0, 1, number)}
    return {"image_id": image_id, **values, "rles": masks, "note": image_id}


def training_under_way(folder: Path) -> None:
    """The two saved states of a training that stopped."""

    def batches(epoch: int) -> Iterator[Tensor]:
        for number in range(4):
            if (epoch, number) == (1, 3):
                raise InterruptedError
            yield torch.full((1, 4), float(number))

    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    objective = Objective(lambda batch: {"loss": model(batch).sum()}, optimizer, lambda step, total: 1.0)
    job = TrainingJob(folder, "f" * 64, "faults", seed=0, num_epochs=3, save_every_steps=1)
    with contextlib.suppress(InterruptedError), silenced():
        fit(model, [objective], batches, job, num_steps_per_epoch=4)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep what a run prints off the terminal."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


# What reads each file


def targets_of(out: Path, beside: Path) -> list[Target]:
    """Every file of the run, and of the store and the training beside it, with its reader."""
    targets = [target_in_run(out, path) for path in sorted(out.rglob("*")) if path.is_file()]
    store = half_filled_store(beside / "half")
    for path in sorted(store.folder.glob("part-*.parquet")):
        targets.append(Target("part, not sealed", path, lambda: rows_after_filling(beside / "half")))
    training_under_way(beside / "training")
    for path in sorted((beside / "training").glob("state*.safetensors")):
        targets.append(Target("state of a training", path, lambda path=path: weights_of(path)))
    return targets


def target_in_run(out: Path, path: Path) -> Target:
    name, folder = path.name, path.parent
    if name.startswith("part-"):
        return Target("part, sealed", path, lambda: rows_of(open_sealed(folder)))
    if path.suffix == ".safetensors":
        return Target("weights", path, lambda: weights_of(path))
    if name == "manifest.json":
        return Target("manifest", path, lambda: record_of(path))
    if name in ("done.json", "photos.json", "run.json"):
        return Target(name, path, lambda: record_of(path))
    if name in UNCHECKED:
        return Target("log and the like (no result depends on it)", path, lambda: None)
    return Target("results and report (no stage reads them)", path, lambda: listed_fault(out, path))


def rows_of(store: Store) -> list[str]:
    """The rows of a store as texts, to the last digit."""
    return [repr({name: plain(value) for name, value in row.items()}) for row in store.rows()]


def rows_after_filling(folder: Path) -> list[str]:
    """The rows of the half-filled store once a rerun has filled and sealed a copy of it."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    filled = store_of(copy).fill(row_of)
    names = sorted(path.name for path in copy.iterdir())
    return [*rows_of(filled), *names]


def weights_of(path: Path) -> tuple[dict[str, Any], Any]:
    """The tensors of a weight file, and of its metadata what readers ask for."""
    metadata = read_metadata(path)
    wanted = {name: metadata.get(name) for name in ("fingerprint", "history", "optimizer", "epoch", "key")}
    return {name: plain(value) for name, value in load_state(path).items()}, wanted


def record_of(path: Path) -> dict[str, Any]:
    """The record in a file; raises `UserError` where it is damaged, which its readers turn into what they do then."""
    record = read_record(path)
    if record is None:
        raise UserError(f"wanted a record in {path}, found a damaged one: see what its reader does")
    return record


def listed_fault(out: Path, path: Path) -> str:
    """Nothing of a plain file is read; whether ``weaksam verify`` tells it."""
    if any(fault.path == path for fault in verify_run(out).faults):
        raise UserError(f"{path} has changed")
    return ""


def plain(value: Any) -> Any:
    """A tensor as its kind, shape and bytes; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()


# Flips


def flip_bits(targets: list[Target], num_flips: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes by kind of file of ``num_flips`` single flips, shared evenly among the kinds of files.

    Of each file the ends, where headers and footers are, get half of its flips.
    """
    draw = random.Random(seed)
    by_kind: dict[str, list[Target]] = {}
    for target in targets:
        by_kind.setdefault(target.kind, []).append(target)
    outcomes: dict[str, Counter[str]] = {}
    for kind, files in by_kind.items():
        share = -(-num_flips // len(by_kind)) if "no stage" not in kind else min(200, num_flips // len(by_kind))
        outcomes[kind] = Counter(flip_one(files[number % len(files)], draw) for number in range(share))
    return outcomes


def flip_one(target: Target, draw: random.Random) -> str:
    """Flip one bit of a file, read it, and put the file back: ``seen``, ``harmless`` or ``silent``."""
    whole = target.path.read_bytes()
    if not whole:
        return "empty"
    near = min(len(whole), 2000)
    place = draw.choice((draw.randrange(len(whole)), draw.randrange(near), len(whole) - 1 - draw.randrange(near)))
    wanted = value_of(target)
    data = bytearray(whole)
    data[place] ^= 1 << draw.randrange(8)
    target.path.write_bytes(data)
    try:
        damaged = target.read()
    except REFUSED:
        return "seen"
    finally:
        target.path.write_bytes(whole)
    same = damaged == wanted or is_superset(damaged, wanted)
    return "harmless" if same else "silent"


_VALUES: dict[Path, Any] = {}


def value_of(target: Target) -> Any:
    """What the reader reads of the whole file, read once."""
    if target.path not in _VALUES:
        _VALUES[target.path] = target.read()
    return _VALUES[target.path]


def is_superset(damaged: Any, wanted: Any) -> bool:
    """Whether a record holds all that was written, and an entry that nobody asks for (the hash under another name)."""
    if not (isinstance(damaged, dict) and isinstance(wanted, dict)):
        return False
    return all(name in damaged and damaged[name] == value for name, value in wanted.items())


# Photos, disks and clocks


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of the stores and every plain result of a run, by relative name."""
    paths = [path for pattern in ("*/store/**/*", "*/*.json") for path in out.glob(pattern)]
    kept = [path for path in paths if path.is_file() and path.name != "done.json" and ".claims" not in path.parts]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}


def copy_without(settings: RunSettings, out: Path, stages: tuple[str, ...]) -> RunSettings:
    """The settings of a copy of a run in which ``stages`` were never begun."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(settings.out, out)
    for stage in stages:
        shutil.rmtree(out / stage, ignore_errors=True)
    return settings.model_copy(update={"out": out})


STAGES_WITH_PHOTOS = ("clues", "proposals", "wsod", "retrain")
ALL_STAGES = ("clues", "proposals", "wsod", "pseudo_gt", "retrain")


def changed_photos(settings: RunSettings, folder: Path) -> Counter[str]:
    """Change one photo in several ways before each stage that reads photos, put it back, and finish the run."""
    images = settings.data.train.images
    assert images is not None
    photo, other, *_ = sorted(images.iterdir())
    whole, wanted = photo.read_bytes(), files_of(settings.out)
    ways: list[bytes | None] = [other.read_bytes(), whole[: len(whole) // 2], b"", None, whole + b"\0"]
    outcomes: Counter[str] = Counter()
    for stage in STAGES_WITH_PHOTOS:
        for data in ways if stage == "proposals" else ways[:1]:
            copied = copy_without(settings, folder, ALL_STAGES[ALL_STAGES.index(stage) :])
            run = open_run(copied)
            for before in ALL_STAGES[: ALL_STAGES.index(stage)]:
                stage_named(before).run(run)
            photo.unlink() if data is None else photo.write_bytes(data)
            try:
                stage_named(stage).run(run)
                outcomes["silent"] += 1
            except UserError as error:
                outcomes["seen" if photo.name in str(error) else "silent"] += 1
            finally:
                photo.write_bytes(whole)
            pipeline.run(copied, until="retrain")
            outcomes["same after it is put back"] += files_of(folder) == wanted
    return outcomes


def full_disk(settings: RunSettings, folder: Path) -> Counter[str]:
    """Let no file grow over a limit, as on a full disk; a rerun with room must end as an unbroken run."""
    outcomes: Counter[str] = Counter()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (600, 3_000, 8_000, 60_000, 400_000):
        copied = copy_without(settings, folder, ALL_STAGES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            pipeline.run(copied, until="retrain")
            outcomes["not reached"] += 1
        except UserError:
            outcomes["seen"] += 1
        except Exception as error:  # no sentence, but not silent either
            outcomes[f"seen, as {type(error).__name__}"] += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        (folder / "log.jsonl").unlink(missing_ok=True)
        pipeline.run(copied, until="retrain")
        outcomes["same once there is room"] += files_of(folder) == files_of(settings.out)
    return outcomes


def wrong_clocks(settings: RunSettings, folder: Path) -> Counter[str]:
    """Give files times in the past and the future, leave stale claims, and rerun: the same bytes, sound seconds."""
    outcomes: Counter[str] = Counter()
    wanted = files_of(settings.out)
    for moment in (0.0, time.time() + 10 * 365 * 86400):
        copied = copy_without(settings, folder, ("proposals", "wsod", "pseudo_gt", "retrain"))
        (store,) = settings.out.glob("proposals/store/train-*")
        claims = folder / "proposals" / "store" / store.name / ".claims"
        claims.mkdir(parents=True)
        (claims / "part-00000").touch()
        for path in folder.rglob("*"):
            os.utime(path, (moment, moment))
        metrics = pipeline.run(copied, until="retrain")
        sound = all(0 <= row["seconds"] < 3600 for row in metrics["stages"])
        outcomes["same" if files_of(folder) == wanted and sound else "silent"] += 1
    return outcomes


# The table


def measure(num_flips: int, seed: int, folder: Path) -> dict[str, Counter[str]]:
    """All faults, in a folder that is used for nothing else; outcomes by kind of fault."""
    settings = make_run(folder)
    outcomes = flip_bits(targets_of(settings.out, folder / "beside"), num_flips, seed)
    with silenced():
        outcomes["photos changed between stages"] = changed_photos(settings, folder / "copy_of_run")
        outcomes["full disk"] = full_disk(settings, folder / "copy_of_run")
        outcomes["clocks and stale claims"] = wrong_clocks(settings, folder / "copy_of_run")
    return outcomes


def table(outcomes: dict[str, Counter[str]]) -> str:
    """A line for each kind of fault."""
    lines = [f"{'kind':44}{'faults':>8}  outcomes"]
    for kind, counts in outcomes.items():
        words = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()) if number)
        faults = sum(number for word, number in counts.items() if not word.startswith("same ") or kind == "clocks")
        lines.append(f"{kind:44}{faults:>8}  {words}")
    silent = sum(counts["silent"] for counts in outcomes.values())
    return "\n".join([*lines, f"silent: {silent}"])


def main() -> None:
    """Measure, print the table, and end with exit code 1 where anything was silent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--flips", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(arguments.flips, arguments.seed, Path(folder))
    print(table(outcomes))
    print(f"{arguments.flips} flips asked for, seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(outcomes, indent=1))
    sys.exit(1 if any(counts["silent"] for counts in outcomes.values()) else 0)


if __name__ == "__main__":
    main()
