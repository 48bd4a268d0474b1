"""Write files whole or not at all, and compute the SHA-256 that a file is known by."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from weaksam.config import UserError
from weaksam.store.disk_errors import refusal


def _number() -> str:
    """A number that no other process uses at the same time, here or on another machine: digits alone."""
    return f"{os.getpid()}{uuid.uuid4().int % 10**12:012d}"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: what is written there is synced and renamed to ``path`` at the end.

    A reader sees the old file or the whole new one, never a part. Raises `UserError` if the disk refuses.
    """
    temporary = path.parent / f".{path.name[:50]}.{_number()}.tmp"  # short enough where the name itself is not
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:  # safetensors and pyarrow have kinds of their own
        sentence = refusal(path, error)
        if sentence is None:
            raise
        raise sentence from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``: what is written there is there as ``path`` at the end, or nothing is.

    Raises `UserError` where ``path`` is a file or a folder that holds something, and if the disk refuses.
    """
    path = path.absolute()
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        kind = "a file" if path.is_file() else "a folder with files in it"
        raise UserError(f"wanted a new or empty folder to write, found {kind} at {path}: name another, or remove it")
    temporary = path.parent / f".{path.name[:50]}.{_number()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:
        sentence = refusal(path, error)
        if sentence is None:
            raise
        raise sentence from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json_atomic(path: Path, value: Any, indent: int | None = None) -> None:
    """Write JSON atomically: paths as text, tensors and arrays as lists, settings as mappings, NaN as null."""
    write_text_atomic(path, json_text(value, indent))


def write_json_rows_atomic(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON list atomically, a line for each of ``rows``, which are taken one at a time."""
    with atomic_file(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + json_text(row))
        file.write("\n]\n")


def write_lines_atomic(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text in UTF-8 atomically, which are taken one at a time."""
    with atomic_file(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def has_lines(path: Path, lines: Iterable[str]) -> bool:
    """Whether a file that can be read consists of these lines in UTF-8, none of which is held."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            return all(line == f"{wanted}\n" for line, wanted in itertools.zip_longest(file, lines))
    except (OSError, UnicodeDecodeError):
        return False


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically, with a newline at its end."""
    with atomic_file(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_names_atomic(path: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write names by what is said of them as a JSON object of lists, a name a line, without holding the text."""
    with atomic_file(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, (heading, of_heading) in enumerate(names.items()):
            file.write(f"{',' if number else '{'}\n{json.dumps(heading)}: [")
            file.writelines(f"{',' if row else ''}\n{json.dumps(name)}" for row, name in enumerate(of_heading))
            file.write("\n]")
        file.write("\n}\n" if names else "{}\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """The JSON that `write_json_atomic` writes of ``value``."""
    try:
        return json.dumps(value, indent=indent, default=_json_default, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def file_sha256(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    digest = hashlib.sha256()
    hash_file(digest, path)
    return digest.hexdigest()


def hash_file(digest: hashlib._Hash, path: Path) -> None:
    """Add a file's bytes to ``digest``, a MiB at a time."""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)


GIVEN_AGAIN = (
    "put the file back and rerun, which keeps all that is finished, or rerun with it as it is now, which makes "
    "everything that depends on it again"
)
"""What to do about a file that a user gave and that changed since its fingerprint was taken."""


class ChangedFile(UserError):
    """A file whose bytes are not those that a fingerprint or a manifest names."""


@contextlib.contextmanager
def same_bytes(path: Path, sha256: str, remedy: str = "") -> Iterator[None]:
    """Let a block read the file ``path``, whose bytes have this SHA-256 before it and do not change meanwhile.

    Raises `ChangedFile` otherwise, with ``remedy`` as what to do; by default that for a file that the user gave.
    """
    remedy = remedy or GIVEN_AGAIN
    with unchanged_files(path, remedy=remedy):
        if file_sha256(path) != sha256:
            raise ChangedFile(f"wanted the file {path} as it was, found other bytes (another SHA-256): {remedy}")
        yield


@contextlib.contextmanager
def unchanged_files(*paths: Path, remedy: str = GIVEN_AGAIN) -> Iterator[None]:
    """Let a block read files several times, to hash and to load them: `ChangedFile` where one changes meanwhile."""
    before = [_state_of(path, remedy) for path in paths]
    yield
    for path, state in zip(paths, before, strict=True):
        if _state_of(path, remedy) != state:
            raise ChangedFile(f"wanted the file {path} as it was, found that it changed while it was read: {remedy}")


def _state_of(path: Path, remedy: str) -> tuple[int, ...]:
    """What the system changes of a file whenever it is replaced or written to."""
    try:
        stat = os.stat(path)
    except OSError as error:
        state = f"none that can be opened ({error.strerror or error})"
        raise ChangedFile(f"wanted the file {path} as it was, found {state}: {remedy}") from None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json_default(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # a torch tensor, a numpy array or number
        return value.tolist()
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _finite(value: Any) -> Any:
    """The same JSON value with NaN and infinity, which JSON lacks, as ``None``."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else _finite(_json_default(value))
