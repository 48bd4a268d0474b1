"""The page: everything is escaped, pictures lie inside it or beside it, its size is bounded."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import noise_photo, small_metrics
from tests.report.pages import page, results
from weaksam.report import page as page_module
from weaksam.report.drawn_photos import Gallery, GalleryPhoto, Picture
from weaksam.report.page import MOST_BYTES, PICTURES, Page
from weaksam.report.pictures import Canvas


def data_of(html):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(data)


def test_page_escapes_and_embeds():
    metrics = small_metrics()
    picture = Picture("a <caption>", Canvas(np.zeros((4, 4, 3), np.uint8)).uri())
    gallery = Gallery("Photos", "text", [GalleryPhoto("a&b.jpg", "cat", [picture])])
    html, beside = Page(metrics, {"settings": {"seed": 3}}, [gallery, Gallery("Empty", "text", [])]).render()
    assert "<dog>" not in html and "&lt;dog&gt;" in html and "a &lt;caption&gt;" in html and "a&amp;b.jpg" in html
    assert "Empty" not in html and "x.jpg" in html and "seed 3" in html and beside == {}
    data = html.split('src="data:image/jpeg;base64,')[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (340, 340)
    assert 'id="data"' not in html and "Gallery</a>" not in html  # no results, no gallery and no link to one


def test_the_page_shows_every_part(tmp_path):
    html, beside = page(results(tmp_path)).render()
    for title in (
        "The run at a glance",
        "Tags together",
        "Proposals by source",
        "Pseudo ground truth, box by box",
        "Kinds of errors",
        "Label quality without truth",
        "The most doubtful photos",
        "Precision over recall: WSOD",
        "Training losses: WSOD",
        "RoI drop: WSOD",
        "Proposal recall over IoU",
        "Settings, versions and hashes",
        "Review",
    ):
        assert title in html, title
    assert beside == {} and "<dog>" not in re.sub(r"<script.*</script>", "", html, flags=re.DOTALL)
    data = data_of(html)
    assert data["classes"] == ["cat", "<dog>"] and data["run"] == {"name": "run", "pseudo_gt": "abc"}
    assert {photo["s"] for photo in data["photos"]} == {"train", "test"} and len(data["photos"]) == 9


def test_without_truth_or_labels_the_page_has_less(tmp_path):
    bare = results(tmp_path, truths={"train": None, "test": None}, pseudo_gt=None, pseudo_masks=None, num_test=0)
    html, _ = page(bare).render()
    assert "Kinds of errors" not in html and 'id="review"' not in html and "Label quality" in html
    photo = data_of(html)["photos"][0]
    assert photo["truth"] is None and photo["d"] is None and "pseudo labels" not in photo["layers"]


def test_three_hundred_photos_of_noise_stay_inside(tmp_path, monkeypatch):
    made = results(tmp_path, num_train=280, num_test=20)
    seeds = iter(range(10_000))
    html, beside = page(made).render(lambda sample: noise_photo((150, 200), next(seeds)))
    assert beside == {} and 2_000_000 < len(html.encode()) < 8_000_000


def test_more_photos_lie_beside_the_page(tmp_path, monkeypatch):
    made = results(tmp_path / "photos", num_train=5, num_test=1)
    monkeypatch.setattr("weaksam.report.thumbnails.MOST_INSIDE", 5)
    written = page(made).write(tmp_path / "report.html")
    pictures = sorted((tmp_path / PICTURES).iterdir())
    assert len(pictures) == 6 and set(written) == {tmp_path / "report.html", *pictures}
    photos = data_of((tmp_path / "report.html").read_text())["photos"]
    for photo in photos:
        with Image.open(tmp_path / photo["u"]) as picture:
            assert picture.size == (80, 60)
    # One photo less fits inside again, and what lay beside is removed
    fewer = results(tmp_path / "fewer", num_train=4, num_test=1)
    assert page(fewer).write(tmp_path / "report.html") == [tmp_path / "report.html"]
    assert not (tmp_path / PICTURES).exists()


def test_a_page_without_room_puts_pictures_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 1000)
    _, beside = page(results(tmp_path)).render()
    assert len(beside) == 9 and all(name.startswith(f"{PICTURES}/") for name in beside)
    assert MOST_BYTES < 8_000_000


def test_one_script_cannot_end_another(tmp_path):
    html, _ = page(results(tmp_path, labels_key="</script><script>alert(1)</script>")).render()
    assert "</script><script>alert" not in html
    assert data_of(html)["run"]["pseudo_gt"] == "</script><script>alert(1)</script>"


@pytest.mark.parametrize("file", ["overlay.js", "gallery.js", "review.js", "page.css", "gallery.css"])
def test_files_of_the_page_are_short_and_ask_for_nothing(file):
    text = (Path(page_module.__file__).parent / file).read_text()
    assert len(text.splitlines()) <= 400 and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval)\b\s*\(", text) and "@import" not in text
    assert "innerHTML" not in text and "url(" not in text
