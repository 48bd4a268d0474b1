"""Hostile weights, configs, tables, pickles and heat maps: one sentence, and no memory for what they claim."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from tests.helpers import pickled
from tests.hostile.harness import Case, check, sparse

pytestmark = pytest.mark.slow

SAM = ("proposals", "--images", "photos", "--out", "out", "--sam")
NANO = ("proposals", "--images", "photos", "--out", "out", "segmenter.family=nano", "segmenter.weights=odd.safetensors")
BACKBONE = ("run", "--images", "photos", "--tags", "tags.csv", "--out", "out", "backbone.name=mobilenet_v2")
WEAKTR = ("run", "--images", "photos", "--tags", "tags.csv", "--out", "out", "clues.source=weaktr")
MAPS = ("run", "--images", "photos", "--tags", "tags.csv", "--out", "out", "clues.source=files", "clues.heat_maps=maps")
IMPORT = ("boxes", "import", "odd.FILE", "--out", "out", "--images", "photos")


class Trap:
    """What runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(*shape: int, offsets: tuple[int, int] = (0, 4)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": list(offsets)}


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")  # an empty dictionary, pickled
        archive.writestr("archive/data/0", bytes(300 << 20))
    return buffer.getvalue()


def stretched() -> bytes:
    """Weights whose one tensor repeats one number 10 ** 12 times."""
    return saved({"cls_token": torch.zeros(1).expand(1, 1, 10**12)})


WHOLE = {"features.0.0.weight": torch.zeros(32, 3, 3, 3)}
WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an empty file": (lambda: b"", "is empty"),
    "a header of 1e18 bytes": (lambda: header({}, length=10**18), "its header claims 1,000,000,000,000,000,000"),
    "a header cut short": (lambda: b"\x08\x00", "its header claims"),
    "100,000 tensors": (
        lambda: header({f"t{i}": tensor(0, offsets=(0, 0)) for i in range(100_000)}),
        "it holds 100,000 tensors",
    ),
    "shapes that overflow": (lambda: header({"a": tensor(2**40, 2**40)}, bytes(4)), "not a readable safetensors"),
    "a shape larger than the data": (lambda: header({"a": tensor(10**9)}, bytes(4)), "not a readable safetensors"),
    "data cut short": (lambda: save(WHOLE)[:-100], "not a readable safetensors"),
    "deep JSON as a header": (lambda: struct.pack("<Q", 200_000) + b"[" * 200_000, "not a readable safetensors"),
    "a zip bomb": (zip_bomb, "it would unpack to 314,5"),
    "a zip file cut short": (lambda: saved(WHOLE)[:-200], "not a readable"),
    "code": (lambda: saved({"a": Trap()}), "not a readable"),
    "code in torch's older format": (
        lambda: saved({"a": Trap()}, _use_new_zipfile_serialization=False),
        "not a readable",
    ),
    "a tar file": (lambda: bytes(257) + b"ustar" + bytes(500), "is a tar file"),
    "a number instead of tensors": (lambda: saved(7), "not a readable"),
    "a tensor stretched to 1e12 numbers": (stretched, "claims the shape (1, 1, 1000000000000)"),
    "a sparse tensor": (lambda: saved({"a": torch.zeros(9, 9).to_sparse()}), "no plain array of real numbers"),
    "NaN": (lambda: save({"features.0.0.weight": torch.full((32, 3, 3, 3), torch.nan)}), "mobilenet_v2 wants"),
    "other shapes": (lambda: save({"features.0.0.weight": torch.zeros(3)}), "mobilenet_v2 wants"),
}


def weights(name: str, data: Callable[[], bytes], says: str) -> Case:
    """A case of one file as the backbone's weights."""
    commands = [(*BACKBONE, "backbone.weights=odd.file")]
    return Case(f"weights: {name}", lambda folder: (folder / "odd.file").write_bytes(data()) and None, commands, says)


def config(name: str, says: str, weaktr: bool = False, **values: Any) -> Case:
    """A case of a folder with a config.json of transformers and the weights of one number."""

    def build(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps(values))
        (folder / "model" / "preprocessor_config.json").write_text("{}")
        (folder / "model" / "model.safetensors").write_bytes(save({"a": torch.zeros(1)}))

    command = (*WEAKTR, "clues.weaktr.weights=model") if weaktr else (*SAM, "model")
    return Case(f"config: {name}", build, [command], says)


def vision(**values: Any) -> dict[str, Any]:
    return {"model_type": "sam", "vision_config": {"model_type": "sam_vision_model", **values}}


def nano(name: str, says: str, metadata: str) -> Case:
    """A case of sam_nano weights with other words about their architecture."""
    data = save({"a": torch.zeros(1)}, {"weaksam": metadata})
    return Case(f"nano: {name}", lambda folder: (folder / "odd.safetensors").write_bytes(data) and None, [NANO], says)


# Tables, pickles, heat maps


def table(folder: Path, num: int, **columns: Any) -> None:
    plain = {name: pa.array(np.zeros(num, np.float32)) for name in ("x1", "y1", "x2", "y2")}
    plain["image_id"] = pa.DictionaryArray.from_arrays(np.zeros(num, np.int8), ["a"])
    pq.write_table(pa.table({**plain, **columns}), folder / "odd.parquet", compression="zstd")


def imported(name: str, ending: str, build: Callable[[Path], object], says: str) -> Case:
    """A case of one file of proposals."""
    command = tuple(word.replace("FILE", ending) for word in IMPORT)
    return Case(f"proposals: {name}", lambda folder: build(folder) and None, [command], says)


def pickle_of(value: object) -> Callable[[Path], object]:
    return lambda folder: pickled(folder / "odd.pkl", value)


def unfolding() -> list[Any]:
    """A list of lists that share their parts, of 10 ** 15 numbers in all."""
    value: list[Any] = [0.0] * 1000
    for _ in range(4):
        value = [value] * 1000
    return value


def heat_map(name: str, data: Callable[[], bytes], says: str, ending: str = "npy") -> Case:
    """A case of one heat map of the class cat for the first photo."""

    def build(folder: Path) -> None:
        for image, label in (("a", "cat"), ("b", "dog")):
            (folder / "maps" / image).mkdir(parents=True)
            np.save(folder / "maps" / image / f"{label}.npy", np.ones((3, 4), np.float32))
        (folder / "maps" / "a" / "cat.npy").unlink()
        (folder / "maps" / "a" / f"cat.{ending}").write_bytes(data())

    return Case(f"heat map: {name}", build, [MAPS], says)


def npy(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def table_of_nothing(folder: Path) -> None:
    table(folder, 30_000_000)


CASES = [
    *(weights(name, *rest) for name, rest in WEIGHTS.items()),
    Case(
        "weights: 6 GiB of nothing",
        lambda folder: sparse(folder / "odd.file"),
        [(*SAM, "odd.file")],
        "which is not a readable",
    ),
    config("hidden_size 1e9", "found 1000000000", **vision(hidden_size=10**9)),
    config("1e6 layers", "found 1000000", **vision(num_hidden_layers=10**6)),
    config("a list of a million stages", "found 1000000", model_type="sam2", stages=[1] * 10**6),
    config("a ViT of 1e6 layers", "found 1000000", weaktr=True, model_type="vit", num_hidden_layers=10**6),
    nano("an absurd size", "sam_nano wants weights", json.dumps({"architecture": {"dim": 10**9}})),
    nano("a size beyond the weights", "give weights", json.dumps({"architecture": {"deep": 4096, "depth": 60}})),
    nano("no JSON", "odd.safetensors", "{"),
    imported("30 million lines", "parquet", table_of_nothing, "found 30,000,000"),
    imported(
        "a table of another schema",
        "parquet",
        lambda folder: pq.write_table(pa.table({"a": [1]}), folder / "odd.parquet"),
        "wanted the column 'image_id'",
    ),
    imported("a table of NaN", "parquet", lambda folder: table(folder, 2, x1=pa.array([0, np.nan])), "finite numbers"),
    imported(
        "a table of infinity", "parquet", lambda folder: table(folder, 1, x2=pa.array([np.inf])), "finite numbers"
    ),
    imported("lists for numbers", "parquet", lambda folder: table(folder, 1, x1=pa.array([[1.0]])), "wanted numbers"),
    imported(
        "a broken footer", "parquet", lambda folder: (folder / "odd.parquet").write_bytes(b"PAR1" * 9), "found none"
    ),
    imported("a pickle that runs", "pkl", pickle_of({"boxes": Trap()}), "which could run code"),
    imported("a pickle that unfolds", "pkl", pickle_of([unfolding()]), "nested deeper"),
    imported("a pickle cut short", "pkl", lambda f: (f / "odd.pkl").write_bytes(b"\x80\x04\x95\xff\xff"), "cut short"),
    imported(
        "a pickle that repeats boxes", "pkl", pickle_of([np.zeros((10**5, 4))] * 300), "wanted at most 20,000,000"
    ),
    heat_map("1e18 numbers", lambda: npy("(1000000000, 1000000000)"), "wanted at most 240,000,000 numbers"),
    heat_map("objects", lambda: npy("(1, 1)", "|O", bytes(8)), "wanted numbers"),
    heat_map("a negative shape", lambda: npy("(-4, 4)", data=bytes(64)), "cat.npy"),
    heat_map("no numbers", lambda: b"\x93NUMPY\x01\x00\xff\xff{", "found none"),
    heat_map(
        "a PNG of 60,000 squared", lambda: struct.pack(">8s", b"\x89PNG\r\n\x1a\n") + bytes(9), "found none", "png"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
