"""The unpickler: numpy arrays and plain containers come back, and nothing in a file ever runs."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from tests.helpers import pickled
from weaksam.config import UserError
from weaksam.data.proposals.plain_pickle import read_plain_pickle

ARRAYS = [
    np.zeros((0, 4), np.float32),
    np.arange(8, dtype=np.uint16).reshape(2, 4),
    np.asfortranarray(np.arange(8.0).reshape(2, 4)),
    np.arange(8, dtype=">f4"),
    np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1),
    np.array(7),
    np.array([True, False]),
]


def written(path, *instructions: bytes):
    path.write_bytes(b"\x80\x02" + b"".join(instructions) + b".")
    return path


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        read_plain_pickle(path, "proposals")
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda one: f"{one.dtype}{one.shape}")
def test_arrays_come_back(tmp_path, array, protocol):
    found = read_plain_pickle(pickled(tmp_path / "a.pkl", array, protocol), "proposals")
    assert found.dtype == array.dtype and found.shape == array.shape and (found == array).all()
    assert found.flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_containers_scalars_and_object_arrays_come_back(tmp_path, protocol):
    ragged = np.empty(2, object)
    ragged[:] = [np.ones((1, 4)), np.zeros((3, 4))]
    value = {"ids": [np.int64(3), "a_b", 2.5, None, True], "boxes": (ragged, []), b"raw": b""}
    found = read_plain_pickle(pickled(tmp_path / "a.pkl", value, protocol), "proposals")
    assert found["ids"] == [3, "a_b", 2.5, None, True] and type(found["ids"][0]) is int and found[b"raw"] == b""
    assert [one.shape for one in found["boxes"][0]] == [(1, 4), (3, 4)] and found["boxes"][1] == []


def test_module_names_of_numpy_1(tmp_path):
    content = pickle.dumps([np.arange(3), np.float32(1.5)], 4)
    old = content.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    assert old != content
    size = struct.unpack("<Q", old[3:11])[0] - (len(content) - len(old))  # the frame is shorter now
    (tmp_path / "a.pkl").write_bytes(old[:3] + struct.pack("<Q", size) + old[11:])
    array, number = read_plain_pickle(tmp_path / "a.pkl", "proposals")
    assert array.tolist() == [0, 1, 2] and number == 1.5


def test_arrays_of_python_2(tmp_path):
    # What Python 2 wrote for np.array([1, 2], '<u2'): the bytes are a text of 256 signs
    written(
        tmp_path / "a.pkl",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR",
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02u2I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU\x04\x01\x00\x02\x00tb",
    )
    found = read_plain_pickle(tmp_path / "a.pkl", "proposals")
    assert found.dtype == np.uint16 and found.tolist() == [1, 2]


class Runs:
    """Calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [lambda one: one, lambda one: [[one]], lambda one: np.array([one], object)])
def test_nothing_of_a_hostile_file_runs(tmp_path, protocol, inside):
    trace = tmp_path / "it-ran"
    hostile = inside(Runs(os.mkdir, str(trace)))
    assert f"{os.mkdir.__module__}.mkdir, which could run code" in refusal(
        pickled(tmp_path / "a.pkl", hostile, protocol)
    )
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile, protocol))  # the plain reader does run it, so the file was hostile indeed
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "posix system", "builtins eval", "__builtin__ getattr", "numpy load", "numpy.f2py.diagnose run",
     "numpy.core.multiarray fromfile", "numpy._core.multiarray set_typeDict", "numpy memmap", "_codecs decode",
     "numpy.core.multiarray _reconstruct.__globals__", "copyreg _reconstructor", "collections OrderedDict",
     "torch._utils _rebuild_tensor_v2", "weaksam.data.proposals.plain_pickle _StandIn"],
)  # fmt: skip
def test_other_names_are_refused(tmp_path, name):
    said = refusal(written(tmp_path / "a.pkl", b"c" + name.replace(" ", "\n").encode() + b"\n"))
    assert f"found the global {name.replace(' ', '.')}, which could run code" in said


DTYPE = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"


@pytest.mark.parametrize(
    "instructions, wanted",
    [
        (b"cnumpy\ndtype\n(U\x02V8I0\nI1\ntR", "'V8', which does not hold numbers"),
        (b"cnumpy\ndtype\n(U\x03S99I0\nI1\ntR", "'S99', which does not hold numbers"),
        # A structured type with a field of pointers, which would make bytes of the file into objects
        (DTYPE + b"(I4\nU\x01|N(U\x01at}I8\nI1\nI0\ntb", "a composed type"),
        (
            ARRAY + b"(I1\n(I1\nt" + DTYPE.replace(b"\x02f4", b"\x02O8") + b"I00\nU\x0812345678tb",
            "in the form of bytes",
        ),
        (SCALAR + b"(" + DTYPE.replace(b"\x02f4", b"\x02O8") + b"U\x0812345678tR", "in the form of bytes"),
        (ARRAY + b"(I1\n(I1\nt" + DTYPE + b"I00\n]tb", "in the form of a list"),
        (ARRAY + b"(I1\n(I9\nt" + DTYPE + b"I00\nU\x0812345678tb", "claims the shape (9,)"),
        (ARRAY + b"(I1\n(I-1\nt" + DTYPE + b"I00\nU\x04\0\0\0\0tb", "numpy did not write"),
        (b"cnumpy\ndtype\n}b", "changes a function"),
        (b"cnumpy\ndtype\n", "a type or a function as a value"),
        (b"c_codecs\nencode\n(U\x01aU\x04zlibtR", "written as 'zlib'"),
        (b"Pother\n", "another file"),
        (b"]q\0h\0a", "nested more than 8 deep"),
    ],
)
def test_misused_numpy_names_are_refused(tmp_path, instructions, wanted):
    assert wanted in refusal(written(tmp_path / "a.pkl", instructions))


def test_shared_lists_are_read_once(tmp_path):
    # Six lists of 100 references to the one before: 10^12 entries if each were followed
    value = [1.0]
    for _ in range(6):
        value = [value] * 100
    found = read_plain_pickle(pickled(tmp_path / "a.pkl", value), "proposals")
    assert found[0] is found[99] and found[0][0][0][0][0][0] == [1.0]


def test_files_that_are_no_pickle(tmp_path):
    content = pickle.dumps([np.arange(1000.0)], 4)
    path = tmp_path / "a.pkl"
    for damaged in (content[:-3], content[:2000], content[:40], b"", b"boxes,scores\n1,2\n", b"\x80\x04\xff\xff"):
        path.write_bytes(damaged)
        assert "cut short or no pickle" in refusal(path)
    path.write_bytes(b"<!DOCTYPE html><html><body>Sign in</body></html>")
    assert "found a web page: download the file again" in refusal(path)
    assert "found nothing there" in refusal(tmp_path / "absent.pkl")


def test_a_stand_in_cannot_be_changed_for_the_next_file(tmp_path):
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 2).dump({"_make": 1})
    refusal(written(tmp_path / "a.pkl", b"cnumpy\ndtype\n", buffer.getvalue()[2:-1], b"b"))
    assert read_plain_pickle(pickled(tmp_path / "b.pkl", np.arange(2)), "proposals").tolist() == [0, 1]


def test_damaged_bytes_are_refused_or_read_but_never_more(tmp_path):
    rng = np.random.default_rng(0)
    whole = [pickle.dumps({"boxes": [np.ones((2, 4))], "ids": ["a"]}, protocol) for protocol in range(6)]
    refused = 0
    for number in range(300):
        damaged = bytearray(whole[number % 6])
        for _ in range(3):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(damaged)
        try:
            read_plain_pickle(tmp_path / "a.pkl", "proposals")
        except UserError:  # anything else fails the test
            refused += 1
    assert refused > 200
