"""The page: everything is escaped, and pictures lie inside it."""

import base64
import io

import numpy as np
from PIL import Image

from tests.helpers import small_metrics
from weaksam.report.page import Gallery, GalleryPhoto, Page, Picture
from weaksam.report.pictures import Canvas


def test_page_escapes_and_embeds():
    metrics = small_metrics()
    picture = Picture("a <caption>", Canvas(np.zeros((4, 4, 3), np.uint8)).uri())
    gallery = Gallery("Photos", "text", [GalleryPhoto("a&b.jpg", "cat", [picture])])
    html = Page(metrics, {"settings": {"seed": 3}}, [gallery, Gallery("Empty", "text", [])]).render()
    assert "<dog>" not in html and "&lt;dog&gt;" in html and "a &lt;caption&gt;" in html and "a&amp;b.jpg" in html
    assert "Empty" not in html and "x.jpg" in html and "seed 3" in html
    data = html.split('src="data:image/jpeg;base64,')[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (340, 340)
