"""Check every file of a run's output folder against the hashes that it was written with; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.data.known_photos import known_photos_file
from weaksam.data.review_decisions import read_decisions
from weaksam.pipeline.example_picture import EXAMPLE
from weaksam.pipeline.outcome import OUTCOME_FILES
from weaksam.pipeline.plan import CEILINGS, STAGES
from weaksam.pipeline.state import CEILING, DONE, REVIEWS, ROI_DROP, SUGGESTIONS
from weaksam.prediction.checkpoint import NAME as CHECKPOINT
from weaksam.report.page import PICTURES
from weaksam.store.checking import CheckedFile, FileFault, check_own_hash, check_store, compared
from weaksam.store.listed_files import FILES, MANIFEST
from weaksam.store.records import read_record
from weaksam.structures.set_aside import names_file

RUN, LOG, EMBEDDINGS, STORES = "run.json", "log.jsonl", "embeddings", "store"
_REVIEW_AGAIN = "take the file that was downloaded from the report: 'weaksam review apply' keeps it again"
UNCHECKED = {
    LOG,
    EXAMPLE,
    SUGGESTIONS,
    *(name(split) for name in (names_file, known_photos_file) for split in ("train", "test")),
}
"""Files that grow or are written anew by runs, and on which no result depends: they are not compared with anything."""


@dataclass
class Verification:
    """What `verify_run` saw in the folder ``out``: number of files compared with a hash, and every fault."""

    out: Path
    num_checked: int = 0
    faults: list[FileFault] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Stages and stores that are begun and not finished; the plain files of such a stage are not listed yet."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values; paths are relative to ``out``."""
        faults = [
            {"file": fault.path.relative_to(self.out).as_posix(), "kind": fault.kind, "remedy": fault.remedy}
            for fault in self.faults
        ]
        return {"out": str(self.out), "checked": self.num_checked, "unfinished": self.unfinished, "faults": faults}

    def __str__(self) -> str:
        lines = [f"{fault['kind']:8}  {fault['file']}  ->  {fault['remedy']}" for fault in self.as_dict()["faults"]]
        if self.unfinished:
            lines.append(f"not finished: {', '.join(self.unfinished)}")
        kinds = [fault.kind for fault in self.faults]
        counts = [f"{kinds.count(kind)} {kind}" for kind in ("changed", "missing", "unlisted") if kind in kinds]
        lines.append(
            f"{self.out}: {self.num_checked} files compared: {', '.join(counts) or 'all as they were written'}"
        )
        return "\n".join(lines)


def verify_run(out: Path) -> Verification:
    """Compare every file of the run in ``out`` with its hash.

    Stores and trainings with their manifests, other stores of the same stage too; what is not sealed, embeddings and
    records with the hash that they hold; plain files with the lists in ``done.json`` and ``run.json``. Raises
    `UserError` where there is no run.
    """
    names = [stage.name for stage in (*STAGES, *CEILINGS) if (out / stage.name).is_dir()]
    if not names and not (out / RUN).exists():
        raise UserError(f"wanted the folder of a run, found neither a stage nor {RUN} in {out}: name the out folder")
    verification = Verification(out)
    for checked in _files_of_run(out, names, verification.unfinished):
        verification.num_checked += checked.fault is None or checked.fault.kind != "unlisted"
        if checked.fault is not None:
            verification.faults.append(checked.fault)
    return verification


def _files_of_run(out: Path, names: list[str], unfinished: list[str]) -> Iterator[CheckedFile]:
    for name in names:
        yield from _files_of_stage(out / name, unfinished)
    yield from _outcome(out)
    for path in sorted((out / EMBEDDINGS).glob("[!.]*")):
        yield check_own_hash(path, "nothing to do: a run encodes that photo again")
    yield from _diagnosis(out / ROI_DROP, f"'weaksam roi-drop plot {out}'", unfinished)
    for path in sorted((out / REVIEWS).glob("[!.]*")):
        yield CheckedFile(path, None if _is_as_named(path) else FileFault(path, "changed", _REVIEW_AGAIN))
    known = {*names, *OUTCOME_FILES, *UNCHECKED, RUN, EMBEDDINGS, ROI_DROP, PICTURES, REVIEWS}
    for path in sorted(out.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            yield CheckedFile(path, FileFault(path, "unlisted", "no run of this version writes it: delete or move it"))


def _is_as_named(path: Path) -> bool:
    """Whether a file of decisions holds those whose hash its name bears."""
    try:
        return path.stem.endswith(read_decisions(path).fingerprint[:12])
    except UserError:
        return False


def _outcome(out: Path) -> Iterator[CheckedFile]:
    """The record of the run, and what it lists beside it."""
    if not (out / RUN).exists():
        return
    again = "run the command of this run again, which finds its stages finished and writes it anew"
    yield check_own_hash(out / RUN, again)
    files = (read_record(out / RUN) or {}).get(FILES)
    for name, sha256 in files.items() if isinstance(files, dict) else ():
        yield compared(out / _listed_name(name), str(sha256), f"run 'weaksam report {out}', which writes it anew")
    listed = {str(_listed_name(name)) for name in files} if isinstance(files, dict) else set()
    for path in sorted((out / PICTURES).glob("*")):
        if path.relative_to(out).as_posix() not in listed:
            yield CheckedFile(path, _strange(path))


def _listed_name(name: object) -> Path:
    """Where a file of the record lies below OUT: beside it, or in the folder of the report's pictures."""
    path = Path(str(name))
    return Path(PICTURES, path.name) if path.parent.name == PICTURES else Path(path.name)


def _files_of_stage(folder: Path, unfinished: list[str]) -> Iterator[CheckedFile]:
    """The stores of a stage, its note and the plain files that the note lists."""
    note = read_record(folder / DONE)
    if (folder / DONE).exists():
        yield check_own_hash(folder / DONE, "delete it and run the stage again: only its times are lost")
    if note is None or note.get("finished") is not True:
        unfinished.append(folder.name)
    command = f"'weaksam {folder.name.removesuffix(CEILING).replace('_', '-')}' with the settings of this run"
    yield from _stores(folder, command, unfinished)
    files = (note or {}).get(FILES)
    listed = {Path(str(name)).name: str(sha256) for name, sha256 in files.items()} if isinstance(files, dict) else {}
    for name, sha256 in listed.items():
        yield compared(folder / name, sha256, f"run 'weaksam report {folder.parent}', which writes it anew")
    for path in sorted(folder.iterdir()):
        plain_of_unfinished = folder.name in unfinished and (path.suffix == ".json" or path.name == CHECKPOINT)
        if path.name not in {*listed, DONE, STORES} and not path.name.startswith(".") and not plain_of_unfinished:
            yield CheckedFile(path, _strange(path))


def _stores(folder: Path, command: str, unfinished: list[str]) -> Iterator[CheckedFile]:
    """The files of all stores and trainings of a stage's folder, which ``command`` makes again."""
    stores = folder / STORES
    for store in sorted(stores.iterdir()) if stores.is_dir() else ():
        if store.is_dir() and not (store / MANIFEST).exists():
            unfinished.append(f"{folder.name}/{STORES}/{store.name}")
        yield from check_store(store, command) if store.is_dir() else [CheckedFile(store, _strange(store))]


def _diagnosis(folder: Path, command: str, unfinished: list[str]) -> Iterator[CheckedFile]:
    """The early detectors of a diagnosis, its records and the pictures that these list; nothing where none was made."""
    records = sorted(folder.glob("*.json"))
    for record in records:
        yield check_own_hash(record, f"delete it and run {command}")
    files = [(read_record(record) or {}).get(FILES) for record in records]
    listed = {name: sha256 for of_record in files if isinstance(of_record, dict) for name, sha256 in of_record.items()}
    for name, sha256 in listed.items():
        yield compared(folder / Path(str(name)).name, str(sha256), f"run {command}, which draws it again")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            yield from _stores(path, command, unfinished)
        elif path not in records and path.name not in listed and not path.name.startswith("."):
            yield CheckedFile(path, _strange(path))


def _strange(path: Path) -> FileFault:
    return FileFault(path, "unlisted", "it is read by nothing: delete it")
