"""Pseudo ground truth that is given: read from every form, and refused in one sentence where it does not fit."""

import json
import unicodedata
from pathlib import Path

import pytest

from tests.helpers import context, instances
from weaksam.config import UserError
from weaksam.data.detection_stores import instances_of
from weaksam.data.findings import Findings
from weaksam.data.formats.coco import write_instances
from weaksam.data.formats.voc import write_annotations
from weaksam.data.formats.yolo import write_labels
from weaksam.stages.pseudo_gt import GivenPseudoGtSettings, read_given, run_given
from weaksam.structures.dataset import Dataset, Sample

BOXES = {
    "a.jpg": instances([[1, 2, 31, 42], [40, 40, 60, 50]], [0, 1], [0.5, 0.25]),
    "b.jpg": instances([[0, 0, 10, 10]], [1], [0.75]),
}


def dataset(classes=("cat", "dog"), tags=((0, 1), (1,), (0,))) -> Dataset:
    names = ("a.jpg", "b.jpg", "c.jpg")
    samples = (
        Sample(name, Path(name), (80, 100), of_photo, None, number, sha256=name)
        for number, (name, of_photo) in enumerate(zip(names, tags, strict=True), start=5)
    )
    return Dataset("train", classes, tuple(range(3, 3 + len(classes))), tuple(samples))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_instances(tmp_path / "given.json", dataset(), BOXES)
    return tmp_path / "given.json"


def change(path: Path, **entry: object) -> GivenPseudoGtSettings:
    """Settings of a copy of the COCO file at ``path`` whose first annotation has other values."""
    content = json.loads(path.read_text())
    content["annotations"][0].update(entry)
    path.with_name("changed.json").write_text(json.dumps(content))
    return GivenPseudoGtSettings(path=path.with_name("changed.json"))


def test_every_form_gives_the_boxes_and_a_photo_without_any_is_there(coco: Path, tmp_path: Path) -> None:
    write_annotations(tmp_path / "voc", dataset(), BOXES)
    write_labels(tmp_path / "yolo", dataset(), BOXES)
    forms = {coco: [0.5, 0.25], tmp_path / "voc": [1, 1], tmp_path / "yolo": [0.5, 0.25]}
    for form, scores in forms.items():
        given = read_given(GivenPseudoGtSettings(path=form), dataset())
        assert list(given) == ["a.jpg", "b.jpg", "c.jpg"] and len(given["c.jpg"]) == 0
        assert given["a.jpg"].boxes.flatten().tolist() == pytest.approx([1, 2, 31, 42, 40, 40, 60, 50], abs=1e-4)
        assert given["a.jpg"].labels.tolist() == [0, 1] and given["a.jpg"].scores.tolist() == scores


def test_how_the_file_was_read_is_told(coco: Path) -> None:
    findings = Findings()
    read_given(change(coco, category_id="cat"), dataset(), findings)
    text = "a class's name was taken for its category_id"
    assert list(findings.guesses) == [text] and "3 images" in findings.counts[0] and "3 objects" in findings.counts[0]


def test_the_stage_takes_them_as_they_are_and_other_boxes_make_another_store(coco: Path, tmp_path: Path) -> None:
    run_context = context(tmp_path, dataset())
    stores = [
        run_given(run_context, settings, read_given(settings, dataset()))
        for settings in (GivenPseudoGtSettings(path=coco), change(coco, bbox=[1, 2, 30, 39]))
    ]
    assert instances_of(stores[0])["a.jpg"].boxes.tolist() == BOXES["a.jpg"].boxes.tolist()
    assert instances_of(stores[1])["a.jpg"].boxes.tolist()[0] == [1, 2, 31, 41]
    assert stores[0].fingerprint != stores[1].fingerprint
    moved = coco.rename(tmp_path / "moved.json")
    settings = GivenPseudoGtSettings(path=moved)
    assert run_given(run_context, settings, read_given(settings, dataset())).folder == stores[0].folder


def test_labels_follow_the_names(coco: Path) -> None:
    given = read_given(GivenPseudoGtSettings(path=coco), dataset(classes=("dog", "cat"), tags=((0, 1), (0,), ())))
    assert given["a.jpg"].labels.tolist() == [1, 0] and given["b.jpg"].labels.tolist() == [0]


def test_crowds_and_difficult_objects_are_ignored(coco: Path, tmp_path: Path) -> None:
    given = read_given(change(coco, iscrowd=1), dataset())
    assert given["a.jpg"].crowd.tolist() == [True, False] and given["b.jpg"].crowd is None
    assert read_given(GivenPseudoGtSettings(path=coco), dataset())["a.jpg"].crowd is None
    write_annotations(tmp_path / "voc", dataset(), given)  # VOC has difficult objects alone
    of_voc = read_given(GivenPseudoGtSettings(path=tmp_path / "voc"), dataset())
    assert of_voc["a.jpg"].crowd.tolist() == [True, False]
    stored = instances_of(run_given(context(tmp_path, dataset()), GivenPseudoGtSettings(path=coco), given))
    assert stored["a.jpg"].crowd.tolist() == [True, False] and stored["b.jpg"].crowd.tolist() == [False]


def test_a_class_in_another_unicode_form_is_the_class(coco: Path) -> None:
    accented, apart = (unicodedata.normalize(form, "cr\u00e8me") for form in ("NFC", "NFD"))
    coco.write_text(coco.read_text().replace('"dog"', json.dumps(apart)))
    given = read_given(GivenPseudoGtSettings(path=coco), dataset(classes=("cat", accented)))
    assert [boxes.labels.tolist() for boxes in given.values()] == [[0, 1], [1], []]


def test_boxes_against_the_tags_are_refused_or_dropped(coco: Path) -> None:
    other_tags = dataset(tags=((0,), (0,), ()))
    with pytest.raises(UserError) as caught:
        read_given(GivenPseudoGtSettings(path=coco), other_tags)
    assert "found 2 of other classes on 2 photos (first: dog on a.jpg, which is tagged cat)" in str(caught.value)
    dropped = read_given(GivenPseudoGtSettings(path=coco, untagged="drop"), other_tags)
    assert [boxes.labels.tolist() for boxes in dropped.values()] == [[0], [], []]


def test_other_classes_and_other_photos_are_one_sentence(coco: Path) -> None:
    with pytest.raises(
        UserError, match=r"classes cat, dogs in .*given.json, found others \(dog\) \(did you mean 'dogs"
    ):
        read_given(GivenPseudoGtSettings(path=coco), dataset(classes=("cat", "dogs")))
    others = Dataset("train", ("cat", "dog"), (3, 4), (Sample("x.jpg", Path("x"), (80, 100), (0,), None, 1),))
    with pytest.raises(UserError, match=r"found none of its 3 images among them \(a.jpg, b.jpg, c.jpg\)"):
        read_given(GivenPseudoGtSettings(path=coco), others)
    with pytest.raises(UserError, match="found nothing there"):
        read_given(GivenPseudoGtSettings(path=coco.with_name("absent.json")), dataset())
