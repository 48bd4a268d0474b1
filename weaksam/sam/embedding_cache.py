"""Keep photo embeddings on disk, so that a photo is encoded once and not once per run."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from weaksam.config import Settings, UserError, fingerprint_of
from weaksam.sam.batches import BatchEncoder
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Embedding, Masks, Segmenter
from weaksam.store.weights import load_state, read_metadata, save_weights

FORMAT = 1
"""Version of the files; part of every key."""
HEADER_BYTES = 2048
"""Room for a file's header, beside its tensors."""


@runtime_checkable
class CacheableSegmenter(Segmenter, Protocol):
    """A segmenter whose embeddings can lie on disk.

    ``embedding_version`` names what beside ``fingerprint`` decides an embedding's numbers: the preprocessing's version,
    the kind of device, the precision. ``costly_encoding``: whether encoding takes much longer than reading a file.
    """

    @property
    def embedding_version(self) -> str:
        """Preprocessing, kind of device and precision, in words."""
        ...

    @property
    def costly_encoding(self) -> bool:
        """Whether the cache is worth its room where nobody says so."""
        ...

    def pack(self, embedding: Embedding) -> dict[str, Tensor]:
        """An embedding of this segmenter as named tensors of any shapes and dtypes."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor]) -> Embedding:
        """The embedding of packed ``tensors``, bit for bit the same, on this segmenter's device."""
        ...


class EmbeddingCacheSettings(Settings):
    """Whether embeddings are kept, where, and how many."""

    enabled: bool | None = Field(
        default=None, description="None: where a large encoder runs on the CPU; a GPU encodes faster than disks write"
    )
    folder: Path | None = Field(default=None, description="shared by any number of runs; None: OUT/embeddings")
    max_gib: float = Field(default=8.0, gt=0, description="size limit; a SAM ViT embedding takes 4 MiB")


class EmbeddingCache:
    """Named tensors by key in one folder, in all at most ``max_bytes``; any number of processes may share it.

    Where room is needed the least recently used entries go, but none that was used since this object was made: a list
    of photos longer than the limit keeps its first ones, rather than throwing out each before its turn comes again.
    A damaged file counts as absent. If the disk refuses, ``note`` gets one sentence and nothing more is kept.
    """

    def __init__(self, folder: Path, max_bytes: int, note: Callable[[str], None] | None = None) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._note = note
        self._began = time.time()
        self._refused = False

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under ``key``, now the most recently used; None where there are none or they are damaged."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            metadata, tensors = read_metadata(path), load_state(path, "an embedding")
            sound = metadata == _metadata(key)
        except (OSError, ValueError, SafetensorError, RuntimeError):
            sound = False  # safetensors has a RuntimeError for a file that another process has just removed
        with contextlib.suppress(OSError):  # another process may have removed it
            if sound:
                os.utime(path, (time.time(),) * 2)
            else:
                path.unlink()
        return tensors if sound else None

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key``, written whole or not at all, if there is or can be made room for them."""
        size = HEADER_BYTES + sum(value.numel() * value.element_size() for value in tensors.values())
        if self._refused or size > self.max_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if self._make_room(size):
                    save_weights(self._path(key), tensors, _metadata(key))
                    os.utime(self._path(key), (time.time(),) * 2)
        except (OSError, UserError) as error:
            self._refused = True
            if self._note is not None:
                self._note(f"embeddings are not kept any more: {error}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the system takes back from a process that dies."""
        descriptor = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes fit now, after removing entries of earlier runs as far as needed; the lock is held."""
        for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed: nobody else is writing now
            leftover.unlink(missing_ok=True)
        entries = sorted(_entries(self.folder))
        total = sum(bytes_used for _, bytes_used, _ in entries)
        for last_used, bytes_used, path in entries:
            if total + size <= self.max_bytes:
                break
            if last_used >= self._began:
                return False
            os.unlink(path)
            total -= bytes_used
        return total + size <= self.max_bytes


def _entries(folder: Path) -> Iterator[tuple[float, int, str]]:
    """When each entry was last used, its bytes and its path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".safetensors") and not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # a reader removed a damaged one
                    stat = entry.stat()
                    yield stat.st_mtime, stat.st_size, entry.path


def _metadata(key: str) -> dict[str, str]:
    """What an entry says of itself; its header holds a hash of its content as well, see `save_weights`."""
    return {"key": key}


class CachedSegmenter:
    """A segmenter that looks for each photo's embedding in a cache before it encodes; its answers stay the same.

    The key holds the photo's pixels, the segmenter's fingerprint (weights) and its ``embedding_version``, so a changed
    photo, other weights or another preprocessing are a miss.
    """

    def __init__(self, segmenter: CacheableSegmenter, cache: EmbeddingCache) -> None:
        self.segmenter, self.cache = segmenter, cache

    @property
    def name(self) -> str:
        """The segmenter's own name."""
        return self.segmenter.name

    @property
    def fingerprint(self) -> str:
        """The segmenter's own fingerprint: the cache changes no answer."""
        return self.segmenter.fingerprint

    def key(self, image: np.ndarray) -> str:
        """What an embedding of a photo, uint8 ``(H, W, 3)``, is found under."""
        photo = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
        identity = [FORMAT, list(image.shape), photo, self.segmenter.fingerprint, self.segmenter.embedding_version]
        return fingerprint_of(identity)

    def encode(self, image: np.ndarray) -> Embedding:
        """The embedding of a photo, uint8 RGB ``(H, W, 3)``, from the cache, else encoded and kept."""
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        """The same for several photos; those not in the cache go through the encoder together if it takes that."""
        keys = [self.key(image) for image in images]
        embeddings: dict[int, Embedding] = {}
        for index, key in enumerate(keys):
            tensors = self.cache.load(key)
            if tensors is not None:
                embeddings[index] = self.segmenter.unpack(tensors)
        missing = [index for index in range(len(images)) if index not in embeddings]
        for index, embedding in zip(missing, self._encoded([images[index] for index in missing]), strict=True):
            self.cache.save(keys[index], self.segmenter.pack(embedding))
            embeddings[index] = embedding
        return [embeddings[index] for index in range(len(images))]

    def _encoded(self, images: list[np.ndarray]) -> list[Embedding]:
        if isinstance(self.segmenter, BatchEncoder) and len(images) > 1:
            return self.segmenter.encode_batch(images)
        return [self.segmenter.encode(image) for image in images]

    def predict(self, embedding: Embedding, prompts: Prompts, *, min_pred_iou: float | None = None) -> Masks:
        """The segmenter's own answer, see ``Segmenter.predict``."""
        return self.segmenter.predict(embedding, prompts, min_pred_iou=min_pred_iou)


def with_cache(
    segmenter: Segmenter,
    settings: EmbeddingCacheSettings,
    out: Path,
    device: torch.device,
    note: Callable[[str], None] | None = None,
) -> Segmenter:
    """``segmenter`` with a cache in front as ``settings`` say, by default below the run's folder ``out``.

    Raises:
        UserError: the cache was asked for, and the segmenter's embeddings cannot be kept.
    """
    if not isinstance(segmenter, CacheableSegmenter):
        if settings.enabled:
            raise UserError(
                f"wanted the embeddings of the segmenter {segmenter.name} on disk, found that it encodes as fast as a "
                "disk reads: remove embedding_cache.enabled"
            )
        return segmenter
    by_default = segmenter.costly_encoding and device.type == "cpu"
    if not (by_default if settings.enabled is None else settings.enabled):
        return segmenter
    cache = EmbeddingCache(settings.folder or out / "embeddings", int(settings.max_gib * 2**30), note)
    return CachedSegmenter(segmenter, cache)
