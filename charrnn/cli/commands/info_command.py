"""`charrnn info`: the description of a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...errors import escape_unprintable
from ..options import FILE, MODEL, Command, json_option, option
from ..output import loss_in_words, print_json, print_table

if TYPE_CHECKING:
    from ...storage.checkpoint import ModelFile


@click.command("info", cls=Command)
@click.argument("model", default=MODEL, type=FILE)
@option("--sample", is_flag=True, help="Also show 80 characters that the model writes.")
@json_option()
def command(model: str, sample: bool, as_json: bool) -> None:
    """Describe a model file.

    Print its network, the characters it knows, how it was trained and its loss. Without MODEL,
    model.safetensors is read.

    \b
    Example:
      charrnn info novels.safetensors
      charrnn info --sample novels.safetensors
    """
    from ...api import read_model

    file = read_model(model)
    text = _sample(model) if sample else None
    if as_json:
        print_json(_object(file) | ({} if text is None else {"sample": text}))
    else:
        shown = [] if text is None else [("sample", escape_unprintable(text))]
        print_table(_rows(model, file) + shown)


def _sample(model: str) -> str:
    """A text of the model that is always the same."""
    from ...api import load

    return load(model).sample(80, temperature=0.7, seed=0)


def _num_parameters(file: ModelFile) -> int:
    return sum(tensor.size for tensor in file.tensors.values())


def _object(file: ModelFile) -> dict[str, object]:
    return {
        "format_version": file.format_version,
        "config": file.config,
        "parameters": _num_parameters(file),
        "vocabulary": file.vocabulary.characters,
        "separator": _separator(file),
        "training": file.training,
    }


def _rows(path: str, file: ModelFile) -> list[tuple[str, str]]:
    c = file.config
    return [
        ("file", f"{escape_unprintable(path)} (format version {file.format_version})"),
        ("network", f"{c['cell']}, layers {c['num_layers']}, units {c['hidden_size']}{_of(file)}"),
        ("input", f"embedding of {c['embedding_size']}" if c["embedding_size"] else "one-hot"),
        ("n-grams", _ngrams(file)),
        ("reads", "backwards" if c["backward"] else "forwards"),
        *_records(file),
        ("dropout", f"{c['dropout']:g}"),
        ("parameters", f"{_num_parameters(file):,}"),
        ("vocabulary", file.vocabulary.describe()),
        *_history(file.training, file.vocabulary.unit),
    ]


def _records(file: ModelFile) -> list[tuple[str, str]]:
    """What ends a record, of a model of records."""
    separator = _separator(file)
    return [("records", f"each ended by '{escape_unprintable(separator)}'")] if separator else []


def _separator(file: ModelFile) -> str | None:
    from ...text.records import separator_of

    end_id = file.config["record_end_id"]
    return separator_of(file.vocabulary, end_id) if end_id >= 0 else None


def _of(file: ModelFile) -> str:
    """Of how many models the network is the average, if of several, as its training says."""
    options = file.training.get("options")
    count = options.get("ensemble") if isinstance(options, dict) else None
    return f" (the average of {count} models)" if type(count) is int and count > 1 else ""


def _ngrams(file: ModelFile) -> str:
    """The numbers of n-grams with weights of their own, by length."""
    counts = (f"{len(ngrams):,} of {n}" for n, ngrams in enumerate(file.ngrams, 2))
    return ", ".join(counts) or "none"


def _baselines(losses: Any, unit: str) -> list[tuple[str, str]]:
    """The losses of an n-gram and of xz on the validation text, if the file tells them."""
    found = losses if isinstance(losses, dict) else {}
    return [
        (f"loss of {name}", loss_in_words(found[key], unit))
        for name, key in (("an n-gram", "ngram"), ("xz", "xz"))
        if type(found.get(key)) in (int, float)
    ]


def _history(training: dict[str, Any], unit: str) -> list[tuple[str, str]]:
    """How the model was trained. The file may be from anyone, and so each value is checked."""
    numbers = {k: v for k, v in training.items() if type(v) in (int, float)}
    rows = []
    if numbers.keys() >= {"steps", "total_steps", "epochs"}:
        steps = f"{numbers['steps']:,} of {numbers['total_steps']:,} steps"
        rows.append(("trained", f"{steps}, {numbers['epochs']:.4g} epochs"))
    for name, key in ("training loss", "train_loss"), ("validation loss", "val_loss"):
        if key in numbers:
            rows.append((name, loss_in_words(numbers[key], unit)))
    rows += _baselines(training.get("baselines"), unit)
    if isinstance(command := training.get("command"), str):
        rows.append(("command", escape_unprintable(command)))
    options = training.get("options")
    options = options.items() if isinstance(options, dict) else ()
    shown = ((k.replace("_", " "), str(v)) for k, v in options if v is not None)
    return rows + [(escape_unprintable(name), escape_unprintable(value)) for name, value in shown]
