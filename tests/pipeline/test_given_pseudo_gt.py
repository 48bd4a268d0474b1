"""A run that is given its pseudo ground truth says how it read that file."""

import json
from pathlib import Path

from tests.helpers import TOY_RUN, draw_discs
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run


def test_how_given_boxes_were_read_is_in_the_log(tmp_path: Path) -> None:
    draw_discs(tmp_path, 2)
    rows = [row.split(",") for row in (tmp_path / "tags.csv").read_text().split()[1:]]
    names = sorted({name for _, tags in rows for name in tags.split(";")})
    images = [{"id": number, "file_name": file} for number, (file, _) in enumerate(rows)]
    boxes = [
        {"id": number, "image_id": number, "category_id": names.index(tags.split(";")[0]), "bbox": [1, 1, 9, 9]}
        for number, (_, tags) in enumerate(rows)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    data = [f"data.train.images={tmp_path / 'photos'}", f"data.train.tags={tmp_path / 'tags.csv'}"]
    rule = ["pseudo_gt.rule=given", f"pseudo_gt.path={given}", f"out={tmp_path / 'out'}"]
    run = open_run(load_settings(RunSettings, None, [*TOY_RUN, *data, *rule]))
    assert run.given_notes[0].startswith(f"{given}: {len(rows)} images; {len(rows)} objects")
    events = map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    assert [event["text"] for event in events if event.get("dataset") == "pseudo_gt"] == list(run.given_notes)
