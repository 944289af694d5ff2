"""`charrnn info`: what a model file is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import printable
from .common import FILE, MODEL, json_option, loss_in_words, print_json, print_table

if TYPE_CHECKING:
    from ..checkpoint import ModelFile


@click.command("info")
@click.argument("model", default=MODEL, type=FILE)
@json_option
def command(model: str, json: bool) -> None:
    """Describe a model file.

    Its network, the characters it knows, how it was trained and with what loss.

    \b
    Example:
      charrnn info novels.safetensors
    """
    from ..api import read_model

    file = read_model(model)
    num_parameters = sum(tensor.size for tensor in file.tensors.values())
    if json:
        print_json(
            {
                "format_version": file.format_version,
                "config": file.config,
                "parameters": num_parameters,
                "vocabulary": file.vocabulary.characters,
                "training": file.training,
            }
        )
    else:
        print_table(_rows(model, file, num_parameters))


def _rows(path: str, file: ModelFile, num_parameters: int) -> list[tuple[str, str]]:
    c = file.config
    vocabulary = file.vocabulary
    known = "bytes" if vocabulary.is_bytes else f"characters: {printable(vocabulary.characters)}"
    return [
        ("file", f"{printable(path)} (format version {file.format_version})"),
        ("network", f"{c['cell']}, layers {c['num_layers']}, units {c['hidden_size']}"),
        ("input", f"embedding of {c['embedding_size']}" if c["embedding_size"] else "one-hot"),
        ("dropout", f"{c['dropout']:g}"),
        ("parameters", f"{num_parameters:,}"),
        ("vocabulary", f"{len(vocabulary):,} {known}"),
        *_history(file.training),
    ]


def _history(training: dict[str, Any]) -> list[tuple[str, str]]:
    """How the model was trained, as far as the file tells; other programs' files may not."""
    rows = []
    if "steps" in training:
        steps = f"{training['steps']:,} of {training['total_steps']:,} steps"
        rows.append(("trained", f"{steps}, {training['epochs']:.4g} epochs"))
    for name, key in ("training loss", "train_loss"), ("held-out loss", "val_loss"):
        if training.get(key) is not None:
            rows.append((name, loss_in_words(training[key])))
    options = {k: v for k, v in training.get("options", {}).items() if v is not None}
    rows += [(printable(k.replace("_", " ")), printable(str(v))) for k, v in options.items()]
    return rows
