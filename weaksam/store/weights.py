"""Read and write files of weights, safely: safetensors, or a torch file of tensors only."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.regular_files import open_regular
from weaksam.store.files import atomic_file, same_bytes
from weaksam.store.weight_headers import refuse_claims, refuse_wild_header, refuse_zip_bomb

_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of torch's zip file, and of its older format."""
_METADATA_KEY = "weaksam"
"""The one key of the header's metadata: safetensors writes several keys in a random order."""
_HASH_KEY = "content_sha256"
"""Entry of our metadata with the SHA-256 of all tensors and of the other metadata."""
_NESTED_KEYS = ("state_dict", "model", "model_state_dict")
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_RECORDS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What published checkpoints hold beside tensors: the options of their command line, and scores as numpy numbers."""


def save_weights(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None, before: Path | None = None
) -> None:
    """Write named tensors, and ``metadata`` as JSON in the header, atomically to safetensors; always the same bytes.

    The header holds a hash of both as well, which `load_state` compares. ``before``: where the file that is replaced
    goes once the new one is written; between the two renames there is that one alone.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    written = json.loads(json.dumps(dict(metadata or {})))
    header = json.dumps({**written, _HASH_KEY: content_sha256(tensors, written)})
    with atomic_file(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={_METADATA_KEY: header})
        if before is not None and path.exists():
            path.replace(before)


def save_torch(path: Path, content: Mapping[str, Tensor | Mapping[str, Tensor]]) -> None:
    """Write tensors by name, or below a key, atomically as torch's ``.pth``, for tools that read nothing else."""

    def plain(value: Tensor | Mapping[str, Tensor]) -> Any:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        return {name: plain(tensor) for name, tensor in value.items()}

    tensors = {key: plain(value) for key, value in content.items()}
    with atomic_file(Path(path)) as temporary:
        torch.save(tensors, temporary)


def read_metadata(path: Path) -> dict[str, Any]:
    """The ``metadata`` that `save_weights` wrote with the tensors; empty if there is none.

    Raises `UserError` where it was damaged since, and ``SafetensorError`` for another file.
    """
    try:
        metadata = _whole_metadata(path)
    except ValueError:
        raise UserError(f"wanted what {path} says of its weights, found damaged text: make or copy it again") from None
    return {key: value for key, value in metadata.items() if key != _HASH_KEY}


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) over names, kinds, shapes and bytes of ``tensors``, in any order, and ``metadata``."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        if value.numel():  # an empty tensor may have no stride to view it by
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_state(path: Path | str, what: str = "the model", sha256: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a ``.safetensors`` or a torch ``.pth`` file; no pickled code ever runs.

    ``what`` names the wanted weights in the error, for example ``"backbone mobilenet_v2"``. ``sha256``: the hash of the
    file's bytes where its fingerprint or a manifest names it. A file that `save_weights` wrote is compared with the
    hash in its header in any case.

    Raises:
        UserError: the file is missing, empty, cut short, a web page, or not a set of named tensors; or it was damaged
            or replaced since it was written.
    """
    path = Path(path)
    with same_bytes(path, sha256) if sha256 is not None else contextlib.nullcontext():
        return _checked_state(path, what)


def _checked_state(path: Path, what: str) -> dict[str, Tensor]:
    head = check_weights(path, what)
    is_torch = head.startswith(_TORCH_STARTS)
    try:
        state = _read_torch(path, head) if is_torch else _read_safetensors(path)
        refuse_claims(state, path.stat().st_size)
    except Exception as error:  # torch and safetensors raise many kinds for a file that is not what it seems
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]
        raise UserError(
            f"The weights of {what} were looked for in {path}, which is not a readable safetensors or torch file "
            f"of tensors ({reason}): download or export it again."
        ) from error
    if not state:
        raise UserError(
            f"The weights of {what} were looked for in {path}, which holds no named tensors: give another file."
        )
    if not is_torch and not _has_its_content(path, state):
        raise UserError(
            f"The weights of {what} were looked for in {path}, which was damaged since it was written (its content has "
            "another SHA-256): delete it and run again the command that made it, or copy it again."
        )
    return state


def _has_its_content(path: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether tensors and metadata are what the hash in the header was taken of; True for a file without one."""
    try:
        metadata = _whole_metadata(path)
    except ValueError:  # metadata that is no JSON any more
        return False
    stated = metadata.pop(_HASH_KEY, None)
    return stated is None or stated == content_sha256(state, metadata)


def _whole_metadata(path: Path) -> dict[str, Any]:
    """Our metadata in the header with the hash of the content; empty for a file of others.

    Raises ``ValueError`` where it is no JSON any more, or stands under another key than ours.
    """
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() or {}
    if _METADATA_KEY not in texts and any(_HASH_KEY in text for text in texts.values()):
        raise ValueError(f"our metadata are not under '{_METADATA_KEY}'")
    metadata = json.loads(texts.get(_METADATA_KEY, "{}"))
    return metadata if isinstance(metadata, dict) else {}


def check_weights(path: Path, what: str) -> bytes:
    """The first bytes of a weight file; ``what`` names the wanted weights in the error.

    Raises:
        UserError: the file is missing, empty, a web page or a pointer of Git LFS.
    """
    if not path.is_file():
        raise UserError(f"The weights of {what} were looked for in {path}, which is not a file: correct the path.")
    with open_regular(path) as file:
        head = file.read(512)
    problem = _not_weights(head)
    if problem is not None:
        raise UserError(
            f"The weights of {what} were looked for in {path}, which {problem} and not weights: download it again."
        )
    return head


def _not_weights(head: bytes) -> str | None:
    """What a file is that people often hold for weights, from its first bytes; None if it is none of these."""
    if not head:
        return "is empty"
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", head, re.IGNORECASE):
        return "is a web page"
    if head[257:262] == b"ustar":
        return "is a tar file, as very old versions of torch wrote,"
    return "is a pointer of Git LFS" if head.startswith(b"version https://git-lfs") else None


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    *,
    allow_missing: Sequence[str] = (),
    allow_extra: Sequence[str] = (),
    remedy: str = "",
) -> None:
    """Copy ``state`` into ``module``, accounting for every key on both sides.

    ``allow_missing`` and ``allow_extra`` are key prefixes (or, starting with a dot, suffixes) that may differ.
    ``remedy``: what to do about other weights, in the error.

    Raises:
        UserError: a key is missing or left over, or a shape differs: the file belongs to another architecture; or a
            number is not finite.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not _named_by(key, allow_missing)]
    extra = [key for key in state if key not in own and not _named_by(key, allow_extra)]
    misshapen = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or extra or misshapen:
        mismatch = _describe_mismatch(what, own, state, missing, extra, misshapen)
        raise UserError(f"{mismatch}: {remedy or f'give weights of {what}'}.")
    broken = [key for key in own if key in state and not bool(state[key].isfinite().all())]
    if broken:
        raise UserError(
            f"{what} wants finite weights, found NaN or infinity in '{broken[0]}' ({len(broken)} such tensors): "
            "take another file, or train it anew."
        )
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def _describe_mismatch(
    what: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    extra: list[str],
    misshapen: list[str],
) -> str:
    """Say in half a sentence how the tensors of a file differ from the ones wanted."""
    if misshapen and not missing and not extra:
        key = misshapen[0]
        return (
            f"{what} wants '{key}' of shape {tuple(own[key].shape)}, "
            f"but the file holds {tuple(state[key].shape)} ({len(misshapen)} such tensors)"
        )
    examples = ", ".join(f"'{key}'" for key in (missing[:1] + extra[:1]))
    return (
        f"{what} wants {len(own)} tensors, but the weights given lack {len(missing)} of them, bring {len(extra)} "
        f"unknown ones and {len(misshapen)} of another shape (for example {examples})"
    )


def _named_by(key: str, names: Sequence[str]) -> bool:
    return any(key.endswith(name) if name.startswith(".") else key.startswith(name) for name in names)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    refuse_wild_header(path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def _read_torch(path: Path, head: bytes) -> dict[str, Tensor]:
    if head.startswith(b"PK"):
        refuse_zip_bomb(path)
    with torch.serialization.safe_globals(_PLAIN_RECORDS):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in _NESTED_KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise ValueError("it holds no dictionary of tensors")
    named = {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return {key.removeprefix("module."): value.detach() for key, value in named.items()}
