"""Find the files of a model that transformers maintains, in a folder or on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from weaksam.config import UserError
from weaksam.store.weight_headers import refuse_wild_header, refuse_zip_bomb
from weaksam.store.weights import check_weights

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = ["config.json", "preprocessor_config.json", "processor_config.json", "*.index.json"]
TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
"""What a model that reads text has beside them."""
_SAFE_FILES = ["model.safetensors", "model-*-of-*.safetensors"]
_TORCH_FILES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


@dataclass(frozen=True)
class ModelSource:
    """A model's folder on disk, and the ``name`` that the user gave for it; ``hub_id`` where it came from the hub.

    ``setting``: the key by which the user named it.
    """

    name: str
    folder: Path
    hub_id: str | None = None
    setting: str = "segmenter.weights"


def names_transformers_model(weights: Path) -> bool:
    """Whether ``weights`` is a folder, or reads as the hub id ``owner/name`` and is neither file nor folder here."""
    if weights.exists():
        return weights.is_dir()
    return bool(_HUB_ID.fullmatch(weights.as_posix())) and weights.suffix.lower() not in WEIGHT_SUFFIXES


def find_model(weights: Path) -> ModelSource:
    """The folder of a segmenter; of one on the hub, only the small files are fetched yet.

    Raises:
        UserError: ``weights`` is a file, neither a folder nor a hub id, or a hub id that cannot be fetched.
    """
    if not names_transformers_model(weights):
        raise UserError(
            f"segmenter.family=transformers wants a folder with config.json or a hub id such as "
            f"facebook/sam2.1-hiera-tiny, but segmenter.weights is {weights}: correct it, or set "
            "segmenter.family=segment_anything for an official .pth file."
        )
    return _folder_or_fetched(weights, "segmenter.weights", ())


def find_text_model(weights: Path, setting: str) -> ModelSource:
    """The folder of a model that reads text, named by the key ``setting``; of one on the hub, only its small files yet.

    Raises:
        UserError: ``weights`` is neither a folder nor a hub id, or a hub id that cannot be fetched.
    """
    if not names_transformers_model(weights):
        raise UserError(
            f"wanted the folder of a model or a hub id such as google/owlv2-base-patch16-ensemble as {setting}, found "
            f"{weights}: correct it"
        )
    return _folder_or_fetched(weights, setting, TOKENIZER_FILES)


def find_semantic_model(weights: Path, setting: str) -> ModelSource:
    """The folder of a semantic segmenter, named by the key ``setting``; of one on the hub, only its small files yet.

    Raises:
        UserError: ``weights`` is neither a folder nor a hub id, or a hub id that cannot be fetched.
    """
    if not names_transformers_model(weights):
        raise UserError(
            "wanted the folder of a semantic segmenter or a hub id such as "
            f"nvidia/segformer-b5-finetuned-cityscapes-1024-1024 as {setting}, found {weights}: correct it"
        )
    return _folder_or_fetched(weights, setting, ())


def _folder_or_fetched(weights: Path, setting: str, more: Sequence[str]) -> ModelSource:
    """The folder ``weights``, or that of a model on the hub with its small files and those that match ``more``."""
    if weights.is_dir():
        return ModelSource(str(weights), weights, setting=setting)
    hub_id = weights.as_posix()
    return ModelSource(hub_id, _download(hub_id, [*_SMALL_FILES, *more], setting), hub_id, setting)


def read_json(source: ModelSource, name: str) -> dict[str, Any]:
    """The mapping in the file ``name`` of the model.

    Raises:
        UserError: there is no such file, or it holds no JSON mapping (a web page, say).
    """
    path = source.folder / name
    if not path.is_file():
        raise UserError(
            f"A folder that transformers wrote (save_pretrained) was wanted in {source.name}, but it holds no {name}: "
            "give the folder of a model, or copy the missing file into it."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"JSON was wanted in {name} of {source.name}, but it cannot be read ({first_line(error)}): download it "
            "again."
        ) from None
    if not isinstance(values, dict):
        raise UserError(
            f"A JSON mapping was wanted in {name} of {source.name}, found another value: download it again."
        )
    return values


def weight_files(source: ModelSource) -> tuple[Path, ...]:
    """The model's weight files, each looked into, safetensors before torch files; fetched if it is on the hub.

    Raises:
        UserError: there are none, a part is missing, or one is empty, cut short, a web page or a pointer.
    """
    if source.hub_id is not None:
        _download(source.hub_id, _SAFE_FILES, source.setting)
    paths = _listed(source, "model.safetensors")
    if not paths and source.hub_id is not None:
        _download(source.hub_id, _TORCH_FILES, source.setting)
    paths = paths or _listed(source, "pytorch_model.bin")
    if not paths:
        raise UserError(
            f"Weights were wanted in {source.name}, but it holds neither model.safetensors nor pytorch_model.bin, "
            "whole or in parts with their index: download them too."
        )
    for path in paths:
        _check(path, source)
    return paths


def _listed(source: ModelSource, name: str) -> tuple[Path, ...]:
    """The file ``name``, or the parts that its index lists; nothing where there is neither."""
    if (source.folder / name).is_file():
        return (source.folder / name,)
    if not (source.folder / f"{name}.index.json").is_file():
        return ()
    parts = read_json(source, f"{name}.index.json").get("weight_map")
    if not isinstance(parts, dict) or not all(
        isinstance(part, str) and Path(part).name == part for part in parts.values()
    ):
        raise UserError(
            f"A weight_map of file names was wanted in {name}.index.json of {source.name}, found none: download it "
            "again."
        )
    return tuple(source.folder / part for part in sorted(set(parts.values())))


def _check(path: Path, source: ModelSource) -> None:
    head = check_weights(path, source.name)
    if path.suffix != ".safetensors":
        _check_torch(path, head, source)
        return
    try:
        refuse_wild_header(path)
        with safe_open(path, framework="pt") as file:  # compares the header with the length of the file
            file.keys()
    except Exception as error:  # safetensors' own kind, which is no ValueError
        raise UserError(
            f"The weights of {source.name} were looked for in {path}, which is not a readable safetensors file "
            f"({first_line(error)}): download it again."
        ) from None


def _check_torch(path: Path, head: bytes, source: ModelSource) -> None:
    """`UserError` for a torch file that would unpack to more than it is; torch checks the rest itself."""
    try:
        if head.startswith(b"PK"):
            refuse_zip_bomb(path)
    except Exception as error:  # zipfile raises its own kind, and others for broken tables
        raise UserError(
            f"The weights of {source.name} were looked for in {path}, which is not a readable torch file "
            f"({first_line(error)}): download it again."
        ) from None


def _download(hub_id: str, patterns: list[str], setting: str) -> Path:
    """The local folder of a model on the hub, in which the files of these patterns now lie if the hub has them."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # many kinds: offline, unreachable, gated, unknown, a full disk
        raise UserError(
            f"{setting} is {hub_id}, which is no folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {first_line(error)}): correct it, or give a folder into which the model was "
            "downloaded."
        ) from error


def first_line(error: Exception) -> str:
    """The first sentence of an error, short and on one line."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip().split(". ")[0].rstrip(".:")[:160]
