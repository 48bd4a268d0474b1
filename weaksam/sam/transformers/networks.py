"""Read a network that transformers maintains from a folder, and account for every tensor."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.sam.transformers.files import ModelSource, first_line


def read_network(source: ModelSource, class_name: str, *, not_read: str = "", **options: Any) -> Any:
    """transformers' network of ``class_name`` with the weights of the folder in it, in float32.

    Tensors whose whole names match the pattern ``not_read`` may lack or be left over. ``options`` go to the class.

    Raises:
        UserError: the folder cannot be read, or its weights do not fit its config.json one to one.
    """
    network_class = getattr(import_module("transformers"), class_name)
    network, report = load_reported(network_class, source, class_name, **options)
    missing = sorted(key for key in report["missing_keys"] if not re.fullmatch(not_read, key))
    extra = sorted(key for key in report["unexpected_keys"] if not re.fullmatch(not_read, key))
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    if missing or extra or misshapen or report["error_msgs"]:
        example = (missing + extra + misshapen + [str(message) for message in report["error_msgs"]])[0]
        raise UserError(
            f"wanted the weights of the {class_name} that config.json describes in {source.name}, found {len(missing)} "
            f"tensors missing, {len(extra)} unknown and {len(misshapen)} of another shape (for example '{example}'): "
            "give weights and config.json of the same model"
        )
    return network


def load_reported(network_class: Any, source: ModelSource, kind: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The network with the weights of the folder in it, and transformers' report of tensors that did not fit.

    ``kind`` names the model in a sentence; ``options`` go to the class.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        network, report = network_class.from_pretrained(
            source.folder,
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are reported instead, for the caller to refuse
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a config of the wrong kind, a torch file cut short or holding code
        raise UserError(
            f"{source.name} could not be read as a {kind} ({first_line(error)}): download it again"
        ) from error
    return network, report
