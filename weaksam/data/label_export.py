"""Write the objects of a set of photos in the format of another tool: a file, or a folder with links to the photos."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.formats import coco, cvat, label_studio, object_tables, voc, yolo
from weaksam.data.frames import detectron2, mmdet
from weaksam.data.output_names import photo_paths
from weaksam.store.files import atomic_folder
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances, ignored

MaskForm = Literal["rle", "polygons"]
PhotoForm = Literal["link", "copy", "none"]


@dataclass(frozen=True)
class ExportOptions:
    """How labels are written. ``masks``: as run lengths (exact to the pixel) or as polygons, where a format has both.

    ``photos``: whether folders get links to the photos, copies, or neither. ``address``: what Label Studio puts before
    a photo's path.
    """

    masks: MaskForm = "rle"
    photos: PhotoForm = "link"
    address: str = label_studio.LOCAL_FILES

    def __post_init__(self) -> None:
        """Raise `UserError` for a word that is none of those."""
        for name, words, value in (
            ("--masks", get_args(MaskForm), self.masks),
            ("--photos", get_args(PhotoForm), self.photos),
        ):
            if value not in words:
                raise UserError(f"wanted {listed(words)} as {name}, found {value!r}{did_you_mean(value, words)}")


Writer = Callable[[Path, Dataset, Mapping[str, Instances], ExportOptions], None]


@dataclass(frozen=True)
class LabelFormat:
    """One format: how its file or folder is written and what it keeps.

    ``suffix``: the file's ending, empty for a folder. ``photos``: the folder in it in which its readers look for the
    photos, with SPLIT for the split's name; empty for none. ``photo_suffix``: the ending that they all get there.
    ``needs_masks``: whether it holds nothing else. ``ignored``: what becomes of ignored regions; empty: left out.
    ``note``: what does not come back, in words.
    """

    write: Writer
    suffix: str = ""
    photos: str = ""
    photo_suffix: str | None = None
    needs_masks: bool = False
    ignored: str = ""
    note: str = ""


def _coco(path: Path, dataset: Dataset, objects: Mapping[str, Instances], options: ExportOptions) -> None:
    coco.write_instances(path, dataset, objects, polygons=options.masks == "polygons")


def _cvat(path: Path, dataset: Dataset, objects: Mapping[str, Instances], options: ExportOptions) -> None:
    cvat.write_images(path, dataset, objects, masks=options.masks)


def _label_studio(path: Path, dataset: Dataset, objects: Mapping[str, Instances], options: ExportOptions) -> None:
    label_studio.write_tasks(path, dataset, objects, masks=options.masks, address=options.address)


def _plain(write: Callable[[Path, Dataset, Mapping[str, Instances]], None]) -> Writer:
    """A writer that no option changes."""

    def writer(path: Path, dataset: Dataset, objects: Mapping[str, Instances], options: ExportOptions) -> None:
        write(path, dataset, objects)

    return writer


FORMATS: Mapping[str, LabelFormat] = {
    "coco": LabelFormat(_coco, ".json", ignored="iscrowd"),
    "voc": LabelFormat(
        _plain(voc.write_devkit),
        photos="JPEGImages",
        photo_suffix=".jpg",
        ignored="difficult",
        note="VOC XML, corners rounded to pixels, without scores",
    ),
    "yolo": LabelFormat(_plain(yolo.write_dataset), photos="images/SPLIT", note="without scores"),
    "yolo-seg": LabelFormat(
        _plain(partial(yolo.write_dataset, polygons=True)),
        photos="images/SPLIT",
        needs_masks=True,
        note="without scores",
    ),
    "labelstudio": LabelFormat(_label_studio, ignored='the note "ignored"'),
    "cvat": LabelFormat(_cvat, ".xml", ignored="the attribute ignored"),
    "masks": LabelFormat(
        _plain(voc.write_pictures), needs_masks=True, ignored="border pixels", note="without scores and hidden pixels"
    ),
    "csv": LabelFormat(_plain(object_tables.write_table), ".csv", ignored="the column ignored"),
    "mmdet": LabelFormat(_plain(mmdet.write_mmdet), photos="images/SPLIT", ignored="iscrowd"),
    "detectron2": LabelFormat(
        _plain(detectron2.write_detectron2), photos="images/SPLIT", ignored="iscrowd, which detectron2 leaves out"
    ),
}
"""The formats by name, in the order of the help."""


def format_named(name: str) -> LabelFormat:
    """The format of that name; `UserError` for another."""
    if name not in FORMATS:
        raise UserError(
            f"wanted a format ({', '.join(FORMATS)}), found {name!r}{did_you_mean(name, FORMATS)}: name one"
        )
    return FORMATS[name]


def export_labels(
    out: Path, format_name: str, dataset: Dataset, objects: Mapping[str, Instances], options: ExportOptions
) -> str:
    """Write ``objects`` (by image id) of all photos of ``dataset`` as a format of `FORMATS`; says what was written.

    A photo without objects is in it too. The file or folder is there whole or not at all. Raises `UserError` for a
    file with another ending, a folder that holds something, photos of unknown size, a format of masks without masks,
    and names that collide.
    """
    form = format_named(format_name)
    if form.suffix and out.suffix.lower() != form.suffix:
        raise UserError(f"wanted a file that ends in {form.suffix} for --format {format_name}, found {out}: rename it")
    if not form.suffix and out.suffix.lower() in (".json", ".xml", ".csv"):
        raise UserError(f"wanted a folder to write for --format {format_name}, found {out}: name one without ending")
    unsized = [sample.image_id for sample in dataset if 0 in sample.size]
    if unsized:
        raise UserError(
            f"wanted the sizes of all {len(dataset)} photos, found none for {listed(unsized, 3)}: give --images DIR"
        )
    if form.needs_masks and any(len(of) and of.masks is None for of in objects.values()):
        raise UserError(
            f"wanted masks for --format {format_name}, found boxes alone: take --what masks, or a format of boxes"
        )
    kept = objects if form.ignored else {image_id: of[~ignored(of)] for image_id, of in objects.items()}
    if form.suffix:
        form.write(out, dataset, kept, options)
        return _summary(out, form, dataset, objects, "")
    with atomic_folder(out) as folder:
        form.write(folder, dataset, kept, options)
        photos = place_photos(folder, form, dataset, options.photos)
    return _summary(out, form, dataset, objects, photos)


def place_photos(folder: Path, form: LabelFormat, dataset: Dataset, how: PhotoForm) -> str:
    """Link or copy the photos where the format's readers look for them; says how many, and what is missing."""
    if not form.photos or how == "none":
        return ""
    where = form.photos.replace("SPLIT", dataset.name)
    num_missing = 0
    for image_id, inside in photo_paths(dataset, form.photo_suffix).items():
        source, target = dataset.by_id[image_id].path, folder / where / inside
        if not source.is_file():
            num_missing += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "copy":
            shutil.copyfile(source, target)
        else:
            os.symlink(source.resolve(), target)
    verb = "copies" if how == "copy" else "links"
    text = f"; {verb} of the photos in {where}"
    return text if not num_missing else f"; {num_missing} photos are missing in {where}: give --images DIR"


def _summary(out: Path, form: LabelFormat, dataset: Dataset, objects: Mapping[str, Instances], photos: str) -> str:
    """What was written, in one line."""
    num_ignored = sum(int(ignored(of).sum()) for of in objects.values())
    num_boxes = sum(map(len, objects.values())) - num_ignored
    num_empty = sum(len(objects.get(image_id, ())) == 0 for image_id in dataset.image_ids)
    masks = " with masks" if any(of.masks is not None and len(of) for of in objects.values()) else ""
    kind = f"objects{masks}" if masks else "boxes"
    text = f"{out}: {num_boxes} {kind} on {len(dataset)} photos, {num_empty} of them without any"
    if num_ignored:
        how = f"as {form.ignored}" if form.ignored else "left out, as the format has no mark for them"
        text += f"; {num_ignored} ignored regions {how}"
    return text + photos + (f" ({form.note})" if form.note else "")
