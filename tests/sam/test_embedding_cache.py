"""The embedding cache: the same proposals without encoding, a miss for whatever changed, and a limit that holds."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers import CPU, PROCESSES, noise_photo, random_sam
from weaksam.config import UserError
from weaksam.sam.batches import BatchEncoder, BatchLimit, encode_all
from weaksam.sam.embedding_cache import (
    CacheableSegmenter,
    CachedSegmenter,
    EmbeddingCache,
    EmbeddingCacheSettings,
    with_cache,
)
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.protocol import Segmenter
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.structures.clue_points import CluePoints

SETTINGS = ProposalSettings(grid_side=4, min_pred_iou=0.0, min_stability=0.0, min_side=0)
CLUES = CluePoints.of(torch.tensor([[30.0, 20.0], [12.0, 40.0]]), torch.tensor([0, 0]))
NUM = 16384  # float32 numbers of a test entry: 64 KiB


class Counting(SegmentAnything):
    """SAM that counts the photos it encodes."""

    encoded = 0

    def encode_batch(self, images):
        self.encoded += len(images)
        return super().encode_batch(images)


def toy_sam(seed: int = 1) -> Counting:
    return Counting(random_sam(seed), "toy", f"seed-{seed}")


def photo(seed: int = 0) -> np.ndarray:
    return noise_photo((48, 64), seed)


def same(proposals, expected) -> bool:
    columns = ("boxes", "scores", "sources")
    equal = all(torch.equal(getattr(proposals, name), getattr(expected, name)) for name in columns)
    return equal and proposals.rles == expected.rles and len(proposals.boxes) > 0


@pytest.mark.parametrize("make", [toy_sam, SamNano.load], ids=["segment_anything", "nano"])
def test_a_hit_gives_identical_proposals(make, tmp_path):
    plain = propose(make(), photo(), CLUES, SETTINGS)
    for _ in range(2):
        cached = CachedSegmenter(make(), EmbeddingCache(tmp_path, 2**30))
        assert same(propose(cached, photo(), CLUES, SETTINGS), plain)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_hit_encodes_nothing_and_whatever_changed_is_a_miss(tmp_path):
    def encoded(image: np.ndarray, seed: int = 5, version: int = 1) -> int:
        """How often a new process with these weights and this preprocessing has to encode ``image``."""

        class Versioned(Counting):
            embedding_version = f"preprocessing {version}"

        sam = toy_sam(seed)
        sam.__class__ = Versioned
        CachedSegmenter(sam, EmbeddingCache(tmp_path, 2**30)).encode(image)
        return sam.encoded

    assert [encoded(photo()), encoded(photo())] == [1, 0]
    changed = photo()
    changed[10, 20, 1] ^= 1
    assert [encoded(changed), encoded(changed), encoded(photo())] == [1, 0, 0]
    assert [encoded(photo(), seed=6), encoded(photo(), seed=6)] == [1, 0]
    assert [encoded(photo(), version=2), encoded(photo(), version=2)] == [1, 0]
    # The same bytes in another shape are another photo
    assert encoded(photo().reshape(64, 48, 3)) == 1


def test_a_batch_takes_the_hits_from_disk_and_encodes_the_rest(tmp_path):
    sam = toy_sam()
    cached = CachedSegmenter(sam, EmbeddingCache(tmp_path, 2**30))
    cached.encode(photo(1))
    embeddings = list(encode_all(cached, [photo(0), photo(1)[:20], photo(1), photo(2)], BatchLimit(4)))
    assert sam.encoded == 4
    assert [embedding.size for embedding in embeddings] == [(48, 64), (20, 64), (48, 64), (48, 64)]
    for embedding, seed in ((embeddings[0], 0), (embeddings[2], 1), (embeddings[3], 2)):
        torch.testing.assert_close(embedding.features, sam.encode(photo(seed)).features)


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        damage_middle,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: save_file({"features": torch.zeros(3)}, path),
    ],
    ids=["flipped bit", "cut short", "empty", "zeros", "foreign"],
)
def test_a_damaged_file_is_encoded_again(damage, tmp_path):
    sam = toy_sam()
    cached = CachedSegmenter(sam, EmbeddingCache(tmp_path, 2**30))
    wanted = cached.encode(photo()).features
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    damage(path)
    assert torch.equal(cached.encode(photo()).features, wanted)
    assert sam.encoded == 2
    assert path.read_bytes() == whole


def test_an_entry_under_another_name_is_not_believed(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**30)
    cache.save("a", {"x": torch.ones(3)})
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert cache.load("b") is None


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def age(folder: Path, seconds: float) -> None:
    """Let all entries have been used ``seconds`` earlier, as if by an earlier run."""
    for path in folder.glob("*.safetensors"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_the_least_recently_used_of_earlier_runs_goes_and_the_limit_is_held(tmp_path):
    entry = {"x": torch.zeros(NUM)}
    limit = int(3.5 * 4 * NUM)
    first = EmbeddingCache(tmp_path, limit)
    for place, key in enumerate("abc"):
        first.save(key, entry)
        os.utime(tmp_path / f"{key}.safetensors", (1000.0 + place,) * 2)
    later = EmbeddingCache(tmp_path, limit)
    assert later.load("a") is not None
    for key in "defg":
        later.save(key, entry)
        assert used_bytes(tmp_path) <= limit
    # b and c went, the oldest first; f and g found no room, since all that was left was used in this run
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {"a", "d", "e"}
    age(tmp_path, 1000)
    newest = EmbeddingCache(tmp_path, limit)
    newest.save("i", entry)
    assert newest.load("i") is not None and used_bytes(tmp_path) <= limit


def test_what_is_larger_than_the_limit_is_not_kept(tmp_path):
    cache = EmbeddingCache(tmp_path / "new", 4000)
    cache.save("large", {"x": torch.zeros(1000)})
    assert cache.load("large") is None


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / ".x.safetensors.77.tmp").write_bytes(bytes(100))
    EmbeddingCache(tmp_path, 2**20).save("a", {"x": torch.zeros(4)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.safetensors"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    notes: list[str] = []
    cached = CachedSegmenter(toy_sam(), EmbeddingCache(tmp_path / "file", 2**30, notes.append))
    for seed in range(2):
        assert cached.encode(photo(seed)).size == (48, 64)
    assert len(notes) == 1 and "not kept" in notes[0]


def _save_many(folder: str, start: int, limit: int) -> None:
    cache = EmbeddingCache(Path(folder), limit)
    for number in range(start, start + 40):
        cache.save(f"{number % 50}", {"x": torch.full((NUM,), float(number % 50))})
        entry = cache.load(f"{(number + 7) % 50}")
        assert entry is None or entry["x"].tolist() == [float((number + 7) % 50)] * NUM


def test_several_processes_share_a_folder_within_the_limit(tmp_path):
    limit = 20 * 4 * NUM
    workers = [PROCESSES.Process(target=_save_many, args=(str(tmp_path), start, limit)) for start in (0, 20, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert 0 < used_bytes(tmp_path) <= limit
    cache = EmbeddingCache(tmp_path, limit)
    for path in list(tmp_path.glob("*.safetensors")):
        entry = cache.load(path.stem)
        assert entry is not None and entry["x"][0] == float(path.stem)


def test_who_is_cached(tmp_path):
    def wrapped(segmenter: Segmenter, device: str = "cpu", **settings) -> bool:
        wrapped_segmenter = with_cache(segmenter, EmbeddingCacheSettings(**settings), tmp_path, torch.device(device))
        assert isinstance(wrapped_segmenter, Segmenter) and wrapped_segmenter.fingerprint == segmenter.fingerprint
        return isinstance(wrapped_segmenter, CachedSegmenter)

    sam, nano, tree = toy_sam(), SamNano.load(), RegionTreeSegmenter()
    assert isinstance(sam, CacheableSegmenter) and isinstance(sam, BatchEncoder)
    assert wrapped(sam) and not wrapped(nano) and not wrapped(tree)
    assert wrapped(nano, enabled=True) and not wrapped(sam, enabled=False)
    assert not wrapped(sam, device="cuda")  # it encodes faster than a disk writes
    assert wrapped(sam, device="cuda", enabled=True)
    with pytest.raises(UserError, match="tree"):
        wrapped(tree, enabled=True)


def test_the_folder_is_the_runs_or_the_one_that_is_set(tmp_path):
    for settings, folder in (
        (EmbeddingCacheSettings(), "out/embeddings"),
        (EmbeddingCacheSettings(folder=tmp_path), ""),
    ):
        with_cache(toy_sam(), settings, tmp_path / "out", CPU).encode(photo())
        assert len(list((tmp_path / folder).glob("*.safetensors"))) == 1


def test_a_hit_is_the_most_recently_used(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**20)
    cache.save("a", {"x": torch.zeros(4)})
    os.utime(tmp_path / "a.safetensors", (1000.0, 1000.0))
    assert cache.load("a") is not None
    assert (tmp_path / "a.safetensors").stat().st_mtime > time.time() - 600
