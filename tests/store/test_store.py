"""The store: resume byte for byte after a kill, any number of workers, and no reading of what is not whole."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers import PROCESSES, change_record, flip, part_file
from weaksam.config import Settings, UserError
from weaksam.store.claims import Claims
from weaksam.store.files import atomic_file, file_sha256, write_json_atomic
from weaksam.store.sealed import open_sealed
from weaksam.store.store import Store, stage_fingerprint, store_folder

COLUMNS = {
    "count": "int",
    "mean": "float",
    "source": "str",
    "labels": "ints",
    "scores": "floats",
    "boxes": "boxes",
    "masks": "rles",
    "notes": "strs",
}
IMAGE_IDS = [f"dir/{number:03d}.jpg" for number in range(11)]


def make_store(folder: Path, **changes) -> Store:
    arguments = {"stage": "proposals", "fingerprint": "f" * 64, "image_ids": IMAGE_IDS, "columns": COLUMNS}
    return Store(folder, **{**arguments, "part_size": 4, "command": "weaksam proposals x.yaml", **changes})


def compute(image_id: str) -> dict:
    """A row with as many boxes as the image's number; image 0 has none."""
    number = int(image_id[4:7])
    generator = torch.Generator().manual_seed(number)
    return {
        "count": number,
        "mean": number / 7,
        "source": "grid" * (number % 2),
        "labels": torch.arange(number),
        "scores": torch.rand(number, generator=generator),
        "boxes": torch.rand(number, 4, generator=generator),
        "masks": [{"size": [2, 3], "counts": f"0{number}"}] * number,
        "notes": ["é"] * number,
    }


def kill_at(folder: Path, image_id: str) -> None:
    """Fill the store and kill this very process before ``image_id`` is computed."""

    def compute_or_die(wanted: str) -> dict:
        if wanted == image_id:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(wanted)

    make_store(folder).fill(compute_or_die)


def fill_beside(folder: Path, begun: Path, asked: Connection) -> None:
    """Fill the store and send the ids of the images computed; the first one waits until ``begun`` is there."""

    def slowly(image_id: str) -> dict:
        asked.send(image_id)
        while not begun.exists():
            time.sleep(0.01)
        return compute(image_id)

    make_store(folder, part_size=1).fill(slowly)


def hold_part(folder: Path, claims: Connection) -> None:
    """Claim a part in the folder of claims, send whether that worked, and keep it until the end."""
    with Claims(folder).claim("part-00001", wait=True) as claimed:
        claims.send(claimed)
        signal.pause()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_rows_equal(found: dict, wanted: dict) -> None:
    assert set(found) == {"image_id", *COLUMNS}
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name
        else:
            assert found[name] == value and type(found[name]) is type(value), name


def test_rows_come_back_as_they_were(tmp_path):
    store = make_store(tmp_path / "s", image_ids=IMAGE_IDS[::-1]).fill(compute)
    rows = list(make_store(tmp_path / "s").rows())
    assert [row["image_id"] for row in rows] == IMAGE_IDS
    for image_id, row in zip(IMAGE_IDS, rows, strict=True):
        assert_rows_equal(row, compute(image_id))
        assert_rows_equal(store[image_id], compute(image_id))
    assert rows[0]["boxes"].shape == (0, 4)
    assert list(store.read("dir/003.jpg", "count", "mean").items()) == [
        ("image_id", "dir/003.jpg"),
        ("count", 3),
        ("mean", 3 / 7),
    ]
    assert [row["count"] for row in store.rows("count")] == list(range(11))
    assert len(store) == 11 and "dir/003.jpg" in store and "other.jpg" not in store


def test_lists_and_arrays_are_taken_too(tmp_path):
    store = Store(
        tmp_path,
        stage="s",
        fingerprint="f",
        image_ids=["a"],
        columns={"boxes": "boxes", "labels": "ints", "none": "boxes"},
    )
    store.fill(lambda _: {"boxes": [[0, 1, 2.5, 3]], "labels": np.array([7], dtype=np.int32), "none": []})
    assert store["a"]["boxes"].tolist() == [[0, 1, 2.5, 3]]
    assert store["a"]["labels"].tolist() == [7]
    assert store["a"]["none"].shape == (0, 4)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("boxes", torch.zeros(4)),
        ("boxes", torch.zeros(2, 5)),
        ("labels", torch.tensor([0.5])),
        ("scores", torch.ones(1, 1)),
    ],
)
def test_a_wrong_shape_is_not_stored(tmp_path, column, value):
    with pytest.raises(AssertionError, match=r"must be|whole"):
        make_store(tmp_path).fill(lambda image_id: {**compute(image_id), column: value})
    assert not list(tmp_path.glob("*.parquet"))


def test_a_killed_store_resumes_to_the_same_bytes(tmp_path):
    make_store(tmp_path / "unbroken").fill(compute)
    killed = PROCESSES.Process(target=kill_at, args=(tmp_path / "killed", "dir/006.jpg"))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    store = make_store(tmp_path / "killed")
    assert [part.index for part in store.missing_parts()] == [1, 2]
    asked: list[str] = []
    store.fill(lambda image_id: asked.append(image_id) or compute(image_id))
    assert asked == IMAGE_IDS[4:]  # the part that was whole is not computed again
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_a_kill_in_the_middle_of_writing_leaves_no_part(tmp_path):
    make_store(tmp_path / "unbroken").fill(compute)
    (tmp_path / "killed").mkdir()
    half = part_file(tmp_path / "unbroken").read_bytes()[:500]
    (tmp_path / "killed" / ".part-00000.parquet.123.tmp").write_bytes(half)
    lost = part_file(tmp_path / "unbroken", 1).name
    (tmp_path / "killed" / lost).write_bytes(half)  # a disk that lost what it said it wrote
    make_store(tmp_path / "killed").fill(compute)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "unbroken")


def test_two_processes_share_one_store(tmp_path):
    make_store(tmp_path / "alone", part_size=1).fill(compute)
    asked_here: list[str] = []
    received, sent = PROCESSES.Pipe(duplex=False)
    begun = tmp_path / "begun"
    other = PROCESSES.Process(target=fill_beside, args=(tmp_path / "shared", begun, sent))
    other.start()
    asked_there = [received.recv()]  # it has begun

    def slowly(image_id: str) -> dict:
        asked_here.append(image_id)
        begun.touch()
        time.sleep(0.02)
        return compute(image_id)

    make_store(tmp_path / "shared", part_size=1).fill(slowly)
    other.join()
    assert other.exitcode == 0
    while received.poll():
        asked_there.append(received.recv())
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    assert asked_here and sorted(asked_here + asked_there) == IMAGE_IDS  # shared, and no image twice


def test_a_claim_ends_with_its_process(tmp_path):
    """A worker that is killed while it holds a part must not keep the others waiting."""
    make_store(tmp_path / "alone").fill(compute)
    folder = tmp_path / "s" / ".claims"
    received, sent = PROCESSES.Pipe(duplex=False)
    holder = PROCESSES.Process(target=hold_part, args=(folder, sent), daemon=True)
    holder.start()
    assert received.recv() is True
    with Claims(folder).claim("part-00001", wait=False) as claimed:
        assert not claimed
    store = make_store(tmp_path / "s")
    holder.kill()
    holder.join()
    store.fill(compute)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "alone")


def test_an_unsealed_store_names_the_command(tmp_path):
    store = make_store(tmp_path / "p-aaa")
    with pytest.raises(UserError, match=r"does not exist yet: run 'weaksam proposals x.yaml' to finish it"):
        next(store.rows())
    store.write(store.parts[0], [compute(image_id) | {"image_id": image_id} for image_id in store.parts[0].image_ids])
    with pytest.raises(UserError, match=r"is not sealed \(manifest.json is missing\): run 'weaksam proposals x.yaml'"):
        store["dir/000.jpg"]
    with pytest.raises(AssertionError, match="2 parts are missing"):
        store.seal()
    make_store(tmp_path / "p-bbb").fill(compute)
    with pytest.raises(UserError, match="1 beside it made with other settings"):
        store["dir/000.jpg"]


def test_a_store_of_other_settings_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        make_store(tmp_path).fill(lambda image_id: compute(image_id) if image_id < "dir/005.jpg" else stop())
    with pytest.raises(UserError, match=r"part-00000-.*parquet belongs to another store"):  # half filled
        make_store(tmp_path, fingerprint="0" * 64).missing_parts()
    with pytest.raises(UserError, match=r"part-00000-.*parquet belongs to another store"):
        make_store(tmp_path, part_size=2).missing_parts()
    make_store(tmp_path).fill(compute)
    with pytest.raises(UserError, match="made with another fingerprint"):  # sealed
        make_store(tmp_path, fingerprint="0" * 64)["dir/000.jpg"]
    with pytest.raises(UserError, match="made with another images"):
        next(make_store(tmp_path, image_ids=IMAGE_IDS[1:]).rows())


def stop() -> dict:
    raise RuntimeError("stop")


def test_a_damaged_or_lost_part_is_refused(tmp_path):
    make_store(tmp_path).fill(compute)
    path = part_file(tmp_path, 1)
    flip(path, 200)
    with pytest.raises(UserError, match=r"part-00001-.*parquet is damaged .* run 'weaksam proposals x.yaml'"):
        list(make_store(tmp_path).rows())
    path.unlink()
    with pytest.raises(UserError, match=r"part-00001-.*parquet is missing"):
        make_store(tmp_path)["dir/004.jpg"]
    assert make_store(tmp_path)["dir/000.jpg"]["count"] == 0


def test_a_store_of_no_image(tmp_path):
    store = make_store(tmp_path / "none", image_ids=[])
    with pytest.raises(UserError, match="does not exist"):
        list(store.rows())
    assert list(store.fill(compute).rows()) == []
    assert json.loads((tmp_path / "none" / "manifest.json").read_text())["parts"] == []


@pytest.mark.parametrize("image_ids", [[], IMAGE_IDS[:4], IMAGE_IDS])
def test_a_store_opens_without_knowing_what_made_it(tmp_path, image_ids):
    made = make_store(tmp_path, image_ids=image_ids).fill(compute)
    opened = open_sealed(tmp_path)
    assert (opened.stage, opened.fingerprint, opened.image_ids) == (made.stage, made.fingerprint, made.image_ids)
    for found, wanted in zip(opened.rows(), made.rows(), strict=True):
        assert_rows_equal(found, wanted)
    if image_ids:
        assert_rows_equal(opened[image_ids[-1]], made[image_ids[-1]])


def test_opening_what_is_no_sealed_store(tmp_path):
    make_store(tmp_path / "out" / "p-aaa").fill(compute)
    with pytest.raises(UserError, match=r"name one of the stores below it \(.*p-aaa\)"):
        open_sealed(tmp_path / "out")
    with pytest.raises(UserError, match=r"at .*nowhere, found none: finish the run"):
        open_sealed(tmp_path / "nowhere")
    manifest = tmp_path / "out" / "p-aaa" / "manifest.json"
    path = part_file(tmp_path / "out" / "p-aaa", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        open_sealed(tmp_path / "out" / "p-aaa")
    path.write_bytes(whole)
    with pytest.raises(UserError, match="found format 99"):
        change_record(manifest, format=99)
        open_sealed(tmp_path / "out" / "p-aaa")
    manifest.write_text("[]")
    with pytest.raises(UserError, match="another file"):
        open_sealed(tmp_path / "out" / "p-aaa")


def test_an_opened_store_that_was_changed_is_refused(tmp_path):
    make_store(tmp_path).fill(compute)
    path = part_file(tmp_path, 1)
    flip(path, 200)
    with pytest.raises(UserError, match=r"damaged"):
        list(open_sealed(tmp_path).rows())


def test_other_tools_can_read_a_part(tmp_path):
    make_store(tmp_path).fill(compute)
    table = pq.read_table(part_file(tmp_path))
    assert table.column_names == ["image_id", *COLUMNS]
    assert table.column("count").to_pylist() == [0, 1, 2, 3]
    assert len(table.column("boxes")[2].as_py()) == 2
    assert table.column("masks")[1].as_py() == [{"size": [2, 3], "counts": "01"}]


def test_write_wants_exactly_the_rows_of_its_part(tmp_path):
    store = make_store(tmp_path)
    rows = [compute(image_id) | {"image_id": image_id} for image_id in IMAGE_IDS[:3]]
    with pytest.raises(AssertionError, match="wanted one row for each"):
        store.write(store.parts[0], rows)


def test_fingerprints_and_folders():
    class Small(Settings):
        size: int = 1

    first = stage_fingerprint("clues", Small(), {"data": "a"})
    assert first == stage_fingerprint("clues", Small(size=1), {"data": "a"})
    others = [
        ("wsod", Small(), {"data": "a"}),
        ("clues", Small(size=2), {"data": "a"}),
        ("clues", Small(), {"data": "b"}),
    ]
    assert len({first, *(stage_fingerprint(*other) for other in others)}) == 4
    assert store_folder(Path("out"), "clues", "train", first) == Path(f"out/clues/store/train-{first[:12]}")


def test_atomic_file_keeps_the_old_one_when_writing_fails(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json_atomic(path, {"a": Path("b"), "n": float("nan"), "t": torch.tensor([1, 2]), "x": np.float32(0.5)})
    assert json.loads(path.read_text()) == {"a": "b", "n": None, "t": [1, 2], "x": 0.5}
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text())["t"] == [1, 2]
    assert [found.name for found in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(UserError, match="cannot write"), atomic_file(path / "below a file") as temporary:
        temporary.write_text("never")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_doubled_work_is_harmless(tmp_path):
    """Two processes compute every part, one of them after the other sealed the store."""
    make_store(tmp_path / "alone").fill(compute)
    first, second = make_store(tmp_path / "s"), make_store(tmp_path / "s")
    rows = [{**compute(image_id), "image_id": image_id} for image_id in first.parts[0].image_ids]
    second.write(second.parts[0], rows)
    first.write(first.parts[0], rows)
    first.fill(compute)
    second.write(second.parts[0], rows)
    second.fill(compute)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "alone")


def test_of_two_results_of_a_part_the_same_stays_for_everybody(tmp_path):
    """As of two kinds of GPU: both files are whole until the store is sealed, by whichever of the two processes."""
    kept = []
    for order in (1, -1):
        folder = tmp_path / str(order)
        stores = [make_store(folder, image_ids=IMAGE_IDS[:4]) for _ in range(2)]
        for store, mean in list(zip(stores, (0.5, 0.25), strict=True))[::order]:
            store.write(store.parts[0], [{**compute(i), "image_id": i, "mean": mean} for i in IMAGE_IDS[:4]])
        assert len(list(folder.glob("*.parquet"))) == 2
        for store in stores:
            store.seal()
        kept.append(files_of(folder))
        assert [row["mean"] for row in stores[0].rows("mean")] == [row["mean"] for row in stores[1].rows("mean")]
        late = make_store(folder, image_ids=IMAGE_IDS[:4])
        late.write(late.parts[0], [{**compute(i), "image_id": i, "mean": 0.125} for i in IMAGE_IDS[:4]])
        assert files_of(folder) == kept[-1]
    assert kept[0] == kept[1] and len(kept[0]) == 2
