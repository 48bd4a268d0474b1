"""Weight files that are not what they seem are told apart in one sentence, and no pickled code ever runs."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers import flip
from weaksam.config import UserError
from weaksam.store.files import ChangedFile, file_sha256, same_bytes
from weaksam.store.weights import load_into, load_state, read_metadata, save_weights


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_there_and_back(tmp_path):
    path = tmp_path / "deep" / "w.safetensors"
    save_weights(path, small().state_dict(), {"b": [1, 0.1], "a": {"x": None}})
    assert read_metadata(path) == {"b": [1, 0.1], "a": {"x": None}}
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    load_into(model, load_state(path, "the toy"), "the toy")
    assert all(torch.equal(value, small().state_dict()[name]) for name, value in model.state_dict().items())
    before = path.read_bytes()
    save_weights(path, small().state_dict(), {"b": [1, 0.1], "a": {"x": None}})
    assert path.read_bytes() == before
    save_weights(path, {"a": torch.ones(1)})
    assert read_metadata(path) == {}


def test_a_flipped_bit_in_our_own_weights_is_seen_and_files_of_others_are_taken(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {**small().state_dict(), "scalar": torch.tensor(3), "none": torch.zeros(0, 4)}, {"a": 1.5})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    wanted = load_state(path)
    assert wanted["scalar"] == 3 and wanted["none"].shape == (0, 4)
    for position in range(len(whole)):
        flip(path, position, position % 8)
        if position >= header:
            with pytest.raises(UserError, match="was damaged since it was written"):
                load_state(path, "the toy")
        else:  # the header: refused, or its blanks, which say nothing
            with contextlib.suppress(UserError):
                assert all(torch.equal(value, wanted[name]) for name, value in load_state(path).items())
        path.write_bytes(whole)
    flip(path, whole.index(b'"weaksam"') + 2)  # the key of all our metadata, which would be lost without a word
    for read in (load_state, read_metadata):
        with pytest.raises(UserError, match=r"damaged"):
            read(path)
    save_file(small().state_dict(), path)
    assert set(load_state(path)) == set(small().state_dict())


def test_weights_are_compared_with_the_hash_that_is_wanted(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(small().state_dict(), path)
    sha256 = file_sha256(path)
    assert set(load_state(path, "the toy", sha256)) == set(small().state_dict())
    save_file({name: value + 1 for name, value in small().state_dict().items()}, path)
    with pytest.raises(ChangedFile, match=r"wanted the file .*w\.safetensors as it was, found other bytes"):
        load_state(path, "the toy", sha256)
    path.unlink()
    with pytest.raises(ChangedFile, match=r"found none that can be opened"):
        load_state(path, "the toy", sha256)
    path.write_bytes(b"x")
    with pytest.raises(ChangedFile, match="changed while it was read"), same_bytes(path, file_sha256(path)):
        path.write_bytes(b"y")


def test_the_file_that_is_replaced_can_be_kept(tmp_path):
    path, before = tmp_path / "w.safetensors", tmp_path / "before.safetensors"
    for number in range(3):
        save_weights(path, {"a": torch.tensor([number])}, before=before)
    assert (load_state(path)["a"].item(), load_state(before)["a"].item()) == (2, 1)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}]
)
def test_torch_files_of_tensors(tmp_path, wrap, old_format):
    path = tmp_path / "w.pth"
    torch.save(wrap(small().state_dict()), path, _use_new_zipfile_serialization=not old_format)
    found = load_state(path, "the toy")
    assert set(found) == set(small().state_dict())
    assert torch.equal(found["0.weight"], small().state_dict()["0.weight"])


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / ("w.safetensors" if "safetensors" in kind else "w.pth")
    save_weights(tmp_path / "good.safetensors", small().state_dict())
    good = (tmp_path / "good.safetensors").read_bytes()
    buffer = io.BytesIO()
    torch.save(small().state_dict(), buffer)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "photos")
    contents = {
        "html safetensors": b"\n <!DOCTYPE html><html><body>Not found</body></html>",
        "html pth": b"<html>",
        "truncated safetensors": good[:-4],
        "truncated header safetensors": good[:20],
        "truncated pth": buffer.getvalue()[:-100],
        "empty safetensors": b"",
        "text pth": b"Access denied",
        "zip of photos": zipped.getvalue(),
        "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("html safetensors", "is a web page"),
        ("html pth", "is a web page"),
        ("truncated safetensors", "not a readable"),
        ("truncated header safetensors", "not a readable"),
        ("truncated pth", "not a readable"),
        ("empty safetensors", "is empty"),
        ("text pth", "not a readable"),
        ("zip of photos", "not a readable"),
        ("lfs pointer", "Git LFS"),
    ],
)
def test_a_file_that_is_not_weights_is_one_sentence(tmp_path, kind, part):
    path = write(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        load_state(path, "the backbone")
    sentence = str(caught.value)
    assert part in sentence and "the backbone" in sentence and str(path) in sentence
    assert "\n" not in sentence


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match=r"the backbone .* is not a file"):
            load_state(path, "the backbone")


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"weight": torch.ones(1), "evil": Evil(tmp_path / "made")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a readable"):
        load_state(tmp_path / "w.pth", "the backbone")
    assert not (tmp_path / "made").exists()


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no named tensors"):
        load_state(tmp_path / "w.pth", "the backbone")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda state: state | {"0.weight": torch.zeros(5, 2)},
            r"'0.weight' of shape \(3, 2\), but the file holds \(5, 2\)",
        ),
        (lambda state: {"0.weight": state["0.weight"]}, "wants 4 tensors, but the weights given lack 3"),
        (lambda state: state | {"head.weight": torch.zeros(1)}, "bring 1 unknown"),
        (lambda state: {f"body.{name}": value for name, value in state.items()}, "lack 4 of them, bring 4"),
    ],
)
def test_another_architecture_is_one_sentence(change, part):
    model = small()
    with pytest.raises(UserError, match=part) as caught:
        load_into(model, change(model.state_dict()), "the toy")
    assert "\n" not in str(caught.value)
    assert torch.equal(model[0].weight, small()[0].weight)  # nothing was loaded by halves


def test_what_may_be_missing(tmp_path):
    model, state = small(), {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(3), "fc.weight": torch.ones(1)}
    load_into(model, state, "the toy", allow_missing=("1.",), allow_extra=("fc.",))
    assert model[0].weight.abs().sum() == 0
    assert torch.equal(model[1].weight, small()[1].weight)
