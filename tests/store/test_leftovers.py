"""What a killed run leaves is removed, and nothing else."""

import json

from weaksam.store.leftovers import remove_leftovers


def test_leftovers_go_and_the_rest_stays(tmp_path):
    leftovers = [
        ".run.json.12.tmp",
        "clues/store/train-1/.part-00000.parquet.77.tmp",
        "clues/store/train-1/.claims/part-00000.parquet",
        "wsod/store/weights-1/state.safetensors",
        "wsod/.done.json.5.tmp",
    ]
    others = [
        ".mine.tmp",
        "mine/.x.5.tmp",
        "clues/store/train-1/part-00000.parquet",
        "wsod/store/weights-1/weights.safetensors",
        "wsod/store/weights-2/state.safetensors",
        "wsod/store/weights-3/state.safetensors",
        "wsod/store/weights-3/manifest.json",
    ]
    for name in (*leftovers, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".running.9.tmp").mkdir()
    (tmp_path / ".running.9.tmp" / "owner.json").touch()
    sealed = tmp_path / "wsod/store/weights-1/manifest.json"
    sealed.write_text(json.dumps({"fingerprint": "f", "weights_sha256": "0"}))
    remove_leftovers(tmp_path, ["clues", "wsod", "retrain"])
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {*others, "wsod/store/weights-1/manifest.json"}
    assert not (tmp_path / "clues/store/train-1/.claims").exists()
    remove_leftovers(tmp_path / "nothing", ["clues"])
