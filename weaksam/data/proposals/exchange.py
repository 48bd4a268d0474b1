"""Import the proposals of other tools into a store, and export a store's proposals to other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from weaksam.config import UserError, listed
from weaksam.data.findings import Findings
from weaksam.data.image_names import ImageNames, Key, read_image_list
from weaksam.data.images import image_size
from weaksam.data.photos import list_photos
from weaksam.data.proposals.files import (
    ProposalsByKey,
    open_store,
    read_proposals,
    store_rows,
    write_coco_results,
    write_flat_table,
    write_store,
)
from weaksam.data.proposals.given import record_photos
from weaksam.data.proposals.pickles import Corners, Layout, read_foreign_proposals
from weaksam.store.files import file_sha256, write_json_atomic
from weaksam.structures.proposals import Proposals

_TABLES = (".json", ".parquet")


@dataclass(frozen=True)
class Imported:
    """What an import wrote into ``folder``, and what it had to leave out; as text, one line for each of these.

    ``about``: the source's layout in words. ``num_dropped``: boxes that were none. ``left_out``: images without a
    photo. ``num_bare``: images without a proposal.
    """

    folder: Path
    about: str
    num_images: int
    num_boxes: int
    num_dropped: int
    left_out: tuple[str, ...]
    num_bare: int

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.num_boxes} boxes of {self.num_images} images ({self.about})"]
        if self.num_dropped:
            lines.append(f"{self.num_dropped} boxes had no area, inverted corners or no finite numbers: left out")
        if self.left_out:
            lines.append(f"{len(self.left_out)} images have no photo ({listed(self.left_out, 3)}): left out")
        if self.num_bare:
            lines.append(f"{self.num_bare} images have no proposals")
        return "\n".join(lines)


def import_proposals(
    source: Path,
    out: Path,
    *,
    image_list: Path | None = None,
    photos: Path | None = None,
    layout: Layout | None = None,
    corners: Corners = "auto",
) -> Imported:
    """Write the proposals of ``source`` (a pickle of another tool, COCO results or a flat table) as the store ``out``.

    ``image_list`` names the images the file was made for: exactly those must be in a pickle, where mmdet's, which name
    none, need it for their order; an image that COCO results or a table do not speak of has no proposals. ``photos`` is
    their folder: image ids become its file names, the SHA-256 of the photos is recorded beside the store, and without a
    list images that have no photo are left out. Raises `UserError` where neither is given but needed, and where nothing
    fits.
    """
    names = _names(source, image_list, photos, needed=source.suffix.lower() != ".parquet")
    content = _read_source(source, names, image_list, layout, corners)
    proposals = content.proposals
    key_of = names.find_all(list(proposals), str(source)) if names.names else {str(key): key for key in proposals}
    _check_list(key_of, proposals, names, source, image_list)
    ids = photo_ids(list(key_of) if image_list is None else names.names, photos)
    of_names = {name: proposals[key] for name, key in key_of.items()}
    by_id = {photo_id: of_names.get(name, Proposals.none()) for name, photo_id in ids.items()}
    write_store(out, by_id, {"file": file_sha256(source), "inclusive": content.inclusive, "images": sorted(by_id)})
    if photos is not None:
        paths = list_photos(photos)
        record_photos(out, {image_id: file_sha256(paths[image_id]) for image_id in by_id})
    known = set(key_of.values())
    return Imported(
        out,
        content.about,
        num_images=len(by_id),
        num_boxes=sum(map(len, by_id.values())),
        num_dropped=content.num_dropped,
        left_out=tuple(str(key) for key in proposals if key not in known),
        num_bare=sum(len(image_proposals) == 0 for image_proposals in by_id.values()),
    )


class _Source(NamedTuple):
    """What a file to import holds: proposals by its own keys, its layout in words, and how its boxes were read."""

    proposals: ProposalsByKey
    about: str
    inclusive: bool = False
    num_dropped: int = 0


def _read_source(
    source: Path, names: ImageNames, image_list: Path | None, layout: Layout | None, corners: Corners
) -> _Source:
    """The proposals in a table or in a pickle of another tool; ``names`` give the order of a file without names."""
    if source.suffix.lower() in _TABLES:
        findings = Findings()
        proposals = _read_named(source, findings)
        return _Source(proposals, "; ".join([f"from {source.name}", *findings.notes]))
    foreign = read_foreign_proposals(source, layout, corners)
    if image_list is None and any(key is None for key, _ in foreign.images):
        raise UserError(
            f"wanted the list of images that {source} was made with, since {foreign.layout} keeps proposals in its "
            "order, found none: give --list FILE"
        )
    about = f"{foreign.layout}, corners {'inclusive' if foreign.inclusive else 'half-open'} there, half-open here"
    return _Source(foreign.by_key(names.names, str(source)), about, foreign.inclusive, foreign.num_dropped)


def export_proposals(
    source: Path,
    out: Path,
    *,
    image_list: Path | None = None,
    photos: Path | None = None,
    category_id: int = 1,
    masks: bool = False,
) -> str:
    """Write the proposals of a store (or of a table) as COCO results (``.json``) or a flat table (``.parquet``).

    COCO results name images by number: those of the COCO file ``image_list``, else 1, 2, .. in the order of the ids,
    which are then written beside them as ``NAME.images.json``. ``masks`` need ``photos`` for their sizes. Returns what
    was written in words; raises `UserError`.
    """
    if out.suffix.lower() not in _TABLES:
        raise UserError(f"wanted an output named .json (COCO results) or .parquet (flat table), found {out}: rename it")
    if masks and (photos is None or out.suffix.lower() != ".json" or not source.is_dir()):
        raise UserError("wanted a store, an output named .json and the folder of photos (--images) to export masks")
    ids, rows = _rows_of(source, masks)
    if out.suffix.lower() == ".parquet":
        write_flat_table(out, rows, ids)
        return f"{out}: the boxes of {len(ids)} images"
    numbers, note = _numbers(ids, image_list, out)
    sizes = _photo_sizes(ids, photos) if masks and photos is not None else None
    write_coco_results(out, rows, numbers, category_id=category_id, sizes=sizes)
    return f"{out}: the {'masks' if masks else 'boxes'} of {len(ids)} images{note}"


def _photo_sizes(ids: Sequence[str], photos: Path) -> dict[str, tuple[int, int]]:
    """(H, W) of the photo in the folder ``photos`` for each of ``ids``."""
    paths = list_photos(photos)
    return {image_id: image_size(paths[photo]) for image_id, photo in photo_ids(ids, photos).items()}


def named_proposals(
    source: Path, names: ImageNames, findings: Findings | None = None
) -> tuple[dict[str, Proposals], int]:
    """Proposals of a store or table for the images ``names`` speaks of, and how many others it has.

    ``findings`` take what was taken for what. Raises `UserError`, also where it has proposals for none of them.
    """
    proposals = _read_named(source, findings)
    key_of = names.find_all(list(proposals), str(source))
    _check_list(key_of, proposals, names, source, None)
    return {name: proposals[key] for name, key in key_of.items()}, len(proposals) - len(key_of)


def companion_names(source: Path) -> ImageNames | None:
    """The images of ``NAME.images.json``, which an export writes beside ``NAME.json``; None where there is none."""
    path = source.with_suffix(".images.json")
    return read_image_list(path) if source.suffix.lower() == ".json" and path.is_file() else None


def photo_ids(names: Sequence[str], photos: Path | None) -> dict[str, str]:
    """The file name in the folder ``photos`` for each of ``names``; themselves without a folder. Raises `UserError`."""
    if photos is None:
        return {name: name for name in names}
    photo_names = ImageNames(list(list_photos(photos)))
    photo_of = {name: photo_names.find(name, str(photos)) for name in names}
    lost = [name for name, photo in photo_of.items() if photo is None]
    if lost:
        raise UserError(
            f"wanted a photo in {photos} for every image, found none for {listed(lost, 3)}: mend the folder"
        )
    return {name: photo for name, photo in photo_of.items() if photo is not None}


def _names(source: Path, image_list: Path | None, photos: Path | None, needed: bool) -> ImageNames:
    """The images that ``source`` may speak of; none at all for a table that names them itself."""
    if image_list is not None:
        return read_image_list(image_list)
    if photos is not None:
        return read_image_list(photos)
    companion = companion_names(source)
    if companion is not None:
        return companion
    if needed:
        raise UserError(
            f"wanted to know which images {source} speaks of, found nothing: give --list FILE (names, or a COCO file) "
            "or --images DIR"
        )
    return ImageNames([])


def _read_named(source: Path, findings: Findings | None = None) -> ProposalsByKey:
    """The proposals of a store or table, by name where a companion beside it names the images it numbers."""
    proposals = read_proposals(source, findings)
    companion = companion_names(source)
    if companion is None:
        return proposals
    by_name: ProposalsByKey = {name: Proposals.none() for name in companion.names}
    key_of = companion.find_all(list(proposals), str(source))
    return by_name | {name: proposals[key] for name, key in key_of.items()}


def _check_list(
    key_of: Mapping[str, Key], proposals: ProposalsByKey, names: ImageNames, source: Path, image_list: Path | None
) -> None:
    """`UserError` where no image fits, or where a list was given and does not fit exactly."""
    known = set(key_of.values())
    strange = [str(key) for key in proposals if key not in known]
    lacking = [name for name in names.names if name not in key_of]
    if proposals and (not key_of or (image_list is not None and strange)):
        raise UserError(
            f"wanted {source} to speak of the {len(names.names)} images given, found {len(strange)} others "
            f"({listed(strange, 3)}): give the list or the folder that belongs to it"
        )
    # A table cannot name an image without a box
    if image_list is not None and lacking and source.suffix.lower() not in _TABLES:
        raise UserError(
            f"wanted proposals for all {len(names.names)} images of {image_list}, found {len(key_of)} in {source} "
            f"(without {listed(lacking, 3)}): give the list that belongs to it"
        )


def _rows_of(source: Path, masks: bool) -> tuple[list[str], Iterable[tuple[str, Proposals]]]:
    """All image ids in order, and their proposals: of a store one part at a time."""
    if not source.is_dir():
        by_name = {str(key): proposals for key, proposals in _read_named(source).items()}
        return list(by_name), by_name.items()
    store = open_store(source)
    rows = store_rows(store, masks)
    return list(store.image_ids), _with_masks(rows, source) if masks else rows


def _with_masks(rows: Iterator[tuple[str, Proposals]], source: Path) -> Iterator[tuple[str, Proposals]]:
    """The same rows; raises `UserError` at the first with proposals that have no masks."""
    for image_id, proposals in rows:
        if not proposals.has_masks:
            raise UserError(f"wanted masks in {source}, found boxes alone for {image_id}: export without masks")
        yield image_id, proposals


def _numbers(ids: Sequence[str], image_list: Path | None, out: Path) -> tuple[dict[str, int], str]:
    """The number of each image, and where it is from; own numbers are written beside ``out``."""
    if image_list is None:
        numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
        path = out.with_suffix(".images.json")
        write_json_atomic(path, {"images": [{"id": number, "file_name": name} for name, number in numbers.items()]})
        return numbers, f", numbered in {path.name}"
    names = read_image_list(image_list)
    if names.numbers is None:
        raise UserError(f"wanted a COCO file with the images' numbers, found {image_list} without: leave it out")
    name_of = {image_id: names.find(image_id, str(image_list)) for image_id in ids}
    lost = [image_id for image_id, name in name_of.items() if name is None]
    if lost:
        raise UserError(
            f"wanted every image of the proposals in {image_list}, found {len(lost)} that it lacks "
            f"({listed(lost, 3)}): give the file that numbers them all"
        )
    return {image_id: names.numbers[name] for image_id, name in name_of.items() if name is not None}, ""
