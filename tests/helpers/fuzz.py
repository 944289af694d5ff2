"""Fuzzing of the file reader: mutants of valid models and states, each determined by its number.

    python fuzz.py [COUNT [FIRST]]

Every mutant is read like an untrusted file. It must be valid, or refused in one printable sentence
that names it. Reading must take less than a second and 200 MB of address space and do nothing but
open the file. Prints a JSON object with the faults by the numbers of their mutants.
"""

import contextlib
import copy
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np

from charrnn.api import read_model
from charrnn.cli.commands import info_command as info
from charrnn.config import CELL_SHAPES, ModelConfig, ResolvedOptions, TrainOptions, tensor_shapes
from charrnn.errors import CharRNNError, display_path
from charrnn.storage import checkpoint
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, ByteVocabulary, CharVocabulary
from charrnn.training.progress import Progress
from charrnn.training.state import State, TrainerState, read_state

SECONDS, MEGABYTES = 1.0, 200

MEMBERS = 2  # of the ensembles whose states are mutated
NASTY = [
    None, True, False, -1, 0, 1, 2, 3, 7, 255, 256, 257, 0.5, -0.0, 1.0, 2**31, 2**32, 2**53, 2**63,
    2**64, 10**30, 10**99, -(10**99), 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    -float("inf"), "", "\x00", "\x1b[31m", "\x9b2J", "\u202e", "\ud800", "a" * 1000, "F32", "F64",
    "I8", "BF16", "O", "lstm", "gru", "rnn", "PCG64", [], [[]], [0], [-1], [1, 2], [0, 2**62],
    [2**40, 2**40], [1e308], {}, {"": {}}, {"a": [None]},
]  # fmt: skip


# --- Valid files


def models(rng):
    """Yield the arguments of save_model for five models of few weights, two of them of records."""
    hidden = rng.normal(size=(2, 2, 3, 2)).astype(np.float32)
    recent = np.array([[-1, 0, 3], [2, 1, 0]], np.int32)
    for config, vocabulary, start, ngrams in [
        (
            ModelConfig(5, cell="rnn", hidden_size=3, num_layers=1),
            CharVocabulary("\n\x00é🙂\x7f"),
            None,
            (),
        ),
        (
            ModelConfig(
                4, "lstm-peephole", 2, 2, embedding_size=3, dropout=0.5, ngrams=3, num_ngrams=5
            ),
            CharVocabulary("\nabc"),
            checkpoint.StoredStart(3, hidden, recent),
            ngrams_of([(0, 1), (1, 2), (3, 3)], [(0, 1, 2), (3, 3, 3)]),
        ),
        (
            ModelConfig(256, cell="gru", hidden_size=1, num_layers=1, ngrams=2, num_ngrams=2),
            ByteVocabulary(),
            checkpoint.StoredStart(
                10, np.zeros((1, 1, 1, 1), np.float32), np.array([[-1]], np.int32)
            ),
            ngrams_of([(0, 0), (195, 164)]),
        ),
        (
            ModelConfig(3, "gru", 2, 1, ngrams=2, num_ngrams=2, record_end_id=0),
            CharVocabulary("\nab"),
            checkpoint.StoredStart(
                0, np.zeros((1, 1, 1, 2), np.float32), np.array([[-1]], np.int32)
            ),
            ngrams_of([(0, 1), (1, 2)]),
        ),
        (
            ModelConfig(4, "lstm", 2, 1, ngrams=3, num_ngrams=4, record_end_id=2),
            CharVocabulary(f"ab{SEPARATOR}{UNKNOWN}", separator=" %\n"),
            checkpoint.StoredStart(
                2, np.zeros((1, 2, 1, 2), np.float32), np.array([[-1], [-1]], np.int32)
            ),
            ngrams_of([(0, 1), (2, 0), (3, 0)], [(2, 0, 1)]),
        ),
    ]:
        training = {
            "steps": 9, "total_steps": 10, "epochs": 1.5, "characters": 900, "train_loss": 2.5,
            "val_loss": None, "history": [[9, 2.5, None]],
            "options": vars(ResolvedOptions(steps=10, learning_rate=0.1)),
        }  # fmt: skip
        yield tensors_of(config, rng), vars(config), vocabulary, training, start, ngrams


def ngrams_of(*tables):
    """The table of n-grams of 2, 3, ... ids."""
    return tuple(np.array(ngrams, np.int32) for ngrams in tables)


def states(rng):
    """Yield the states of three runs, the last one of records."""
    for config, groups, ngrams, row_size in [
        (ModelConfig(5, cell="gru", hidden_size=2, num_layers=1), ("mean", "mean_square"), (), 48),
        (
            ModelConfig(3, "lstm", 1, 2, embedding_size=2, dropout=0.1, ngrams=3, num_ngrams=4),
            ("velocity",),
            ngrams_of([(0, 1), (2, 1)], [(0, 1, 1), (2, 1, 0)]),
            16,
        ),
        (
            ModelConfig(4, "rnn", 2, 1, ngrams=2, num_ngrams=2, record_end_id=2),
            ("mean_square",),
            ngrams_of([(0, 1), (2, 0)]),
            8,
        ),
    ]:
        records = {"separator": "; ", "min_count": 2} if config.record_end_id >= 0 else {}
        layers, rows, num_ngrams = config.num_layers, 3, config.num_ngrams
        dense = replace(config, num_ngrams=0)
        yield State(
            config=config,
            options=ResolvedOptions(steps=10, learning_rate=0.1, ensemble=MEMBERS),
            requested=TrainOptions(steps=10, ensemble=MEMBERS, **records),
            fingerprint="0" * 64,
            encoding="utf-8",
            num_bytes=0 if records else 100,
            characters=None if records else "ab",
            progress=Progress(
                total_steps=10,
                step=4,
                loss_sum=9.0,
                loss_count=3,
                first_loss=2.5,
                val_loss=2.25,
                best_val_loss=2.0,
                history=[[2, 2.5, 2.0], [4, 2.4, None]],
            ),
            rng=np.random.default_rng(1),
            hidden=np.zeros(
                (layers, 2 if config.cell == "lstm" else 1, rows, MEMBERS * config.hidden_size)
            ).astype(np.float32),
            ngrams=ngrams,
            recent=np.arange(-1, 2, dtype=np.int32)[None].repeat(config.ngrams - 1, 0),
            members=tuple(
                TrainerState(
                    {"weights": tensors_of(config, rng)}
                    | {name: tensors_of(dense, rng) for name in groups},
                    rng.random((num_ngrams, row_size)).astype(np.float32),
                    np.arange(num_ngrams, dtype=np.int32) % 5,
                )
                for _ in range(MEMBERS)
            ),
        )  # fmt: skip


def tensors_of(config, rng):
    shapes = config.tensor_shapes().items()
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}


def valid_files(folder):
    """Return [(bytes, key)] of the files to mutate."""
    rng, path, found = np.random.default_rng(0), folder / "valid", []
    for model in models(rng):
        checkpoint.save_model(path, *model)
        found.append((path.read_bytes(), checkpoint.MODEL_KEY))
    for state in states(rng):
        state.save(path)
        found.append((path.read_bytes(), checkpoint.STATE_KEY))
    return found


# --- A file in parts


class Draft:
    """The parts of a file, each of which may hold anything.

    `content` is the JSON value in the metadata. `entries` are [name, description] in the order of
    the header, where a name may occur twice. `body` follows the header.
    """

    def __init__(self, data, key):
        (length,) = struct.unpack("<Q", data[:8])
        header, self.body, self.key = json.loads(data[8 : 8 + length]), data[8 + length :], key
        self.metadata = header.pop("__metadata__")
        self.content = json.loads(self.metadata[key])
        self.entries = [list(item) for item in header.items()]
        self.text = None  # replaces the JSON text of the content
        self.length = None  # replaces the length of the header

    def arrays(self):
        """Return the arrays of the body that the entries describe validly."""
        found = {}
        for name, entry in self.entries:
            with contextlib.suppress(Exception):
                begin, end = entry["data_offsets"]
                values = np.frombuffer(self.body[begin:end], checkpoint.DTYPES[entry["dtype"]])
                found[name] = values.reshape(entry["shape"])
        return found

    def put(self, arrays):
        """Replace body and entries by `arrays`, laid out validly."""
        self.entries, self.body = [], b""
        for name, array in arrays.items():
            entry = checkpoint.describe_array(array)
            entry["data_offsets"] = [len(self.body), len(self.body) + array.nbytes]
            self.entries.append([name, entry])
            self.body += array.tobytes()

    def sealed(self):
        """Return the file with a correct checksum."""
        text = self._text()
        with contextlib.suppress(Exception):
            self.metadata["sha256"] = checkpoint.digest(text, self.arrays())
        return self.joined()

    def joined(self):
        """Return the file with its checksum unchanged."""
        metadata = {**self.metadata, self.key: self._text()}
        items = [("__metadata__", metadata), *self.entries]
        parts = (f"{json.dumps(name)}:{json.dumps(value)}" for name, value in items)
        header = ("{" + ",".join(parts) + "}").encode("utf-8", "surrogatepass")
        length = len(header) if self.length is None else self.length
        return struct.pack("<Q", length % 2**64) + header + self.body

    def _text(self):
        return json.dumps(self.content) if self.text is None else self.text


def places(value, path=()):
    """Yield the paths of all values within a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def spoil(value, choose):
    """Return a JSON value with one place changed."""
    path = choose.choice(list(places(value)))
    if not path:
        return nasty(choose)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    how = choose.randrange(6)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[choose.choice(["", "x", "\x1b]0;x\x07", "\ud800", "a" * 300])] = parent[key]
    elif how == 2 and type(parent[key]) in (int, float):
        parent[key] = choose.choice(
            [parent[key] + 1, parent[key] - 1, -parent[key], parent[key] * 2]
        )
    elif how == 3:
        parent[key] = nest(parent[key], choose.choice([1, 2, 9, 14, 15, 16, 17, 99]))
    else:
        parent[key] = nasty(choose)
    return value


def nasty(choose):
    return copy.deepcopy(choose.choice(NASTY))  # later mutants must not depend on earlier ones


def nest(value, depth):
    for _ in range(depth):
        value = [value]
    return value


# --- Mutations of a draft, called with (draft, choose, another draft)


def spoil_content(draft, choose, other):
    draft.content = spoil(draft.content, choose)


def spoil_config(draft, choose, other):
    holder = draft.content.get("info", draft.content)
    name = choose.choice(["config", "training", "options", "requested", "progress", "rng"])
    if name in holder:
        holder[name] = spoil(holder[name], choose)


def spoil_entry(draft, choose, other):
    entry = choose.choice(draft.entries)
    entry[1] = spoil(entry[1], choose)


def rename(draft, choose, other):
    entry = choose.choice(draft.entries)
    entry[0] = choose.choice(["", "\x1b[0m", "\udcff", "__metadata__", "hidden", entry[0] + ".x"])


def duplicate(draft, choose, other):
    draft.entries.append(list(choose.choice(draft.entries)))


def drop(draft, choose, other):
    draft.entries.remove(choose.choice(draft.entries))


def shuffle(draft, choose, other):
    choose.shuffle(draft.entries)


def exchange(draft, choose, other):
    first, second = choose.choice(draft.entries), choose.choice(draft.entries)
    first[1], second[1] = second[1], first[1]


def splice(draft, choose, other):
    part = choose.choice(["content", "entries", "body", "metadata"])
    setattr(draft, part, getattr(other, part))


def spoil_array(draft, choose, other):
    arrays = draft.arrays()
    name = choose.choice(list(arrays))
    array = arrays[name].copy()
    how = choose.randrange(7)
    if how == 0:
        odd = [-(2**31), -2, -1, 0, 1, 5, 2**31 - 1]
        odd = odd if array.dtype == np.int32 else [np.nan, np.inf, -np.inf]
        array.reshape(-1)[choose.randrange(array.size)] = choose.choice(odd)
    elif how == 1:
        odd = [-1, 0, 1] if array.dtype == np.int32 else [3e38, -3e38, 1e-45, 0.0]
        array.reshape(-1)[:] = choose.choice(odd)
    elif how == 2:
        with np.errstate(all="ignore"):
            array = array.astype(choose.choice(list(checkpoint.DTYPE_NAMES)))
    elif how == 3:
        array = array.reshape(choose.choice([(-1,), (1, -1), (-1, 1), array.shape[::-1]]))
    elif how == 4:
        array = array[:-1]
    elif how == 5:
        array = np.concatenate([array, array])
    else:
        arrays[choose.choice(["x", "0.mean.output.bias", "2.x", "\x1b", "1.weights."])] = array
    draft.put({**arrays, name: array})


def spoil_vocabulary(draft, choose, other):
    known = draft.content.get("vocabulary") or "\nabcd"
    at = choose.randrange(len(known))
    character = choose.choice(
        ["\ud800", "\udcff", "\x1b", "\x9b", "\u2028", "\ufeff", known[0], "", "ab", "\U0010ffff"]
    )
    draft.content["vocabulary"] = known[:at] + character + known[at + 1 :]


def spoil_special(draft, choose, other):
    """Change one of the things that only version 4 has, or say that the file has another."""
    content, how = draft.content, choose.randrange(4)
    config = content.get("info", content)["config"]
    if how == 0:
        config["record_end_id"] = choose.choice([-2, -1, 0, 1, 2, 3, 4, 255, 2**31, 0.0, "0", None])
    elif how == 1:
        content["separator"] = choose.choice(
            ["", "a", "ab", "\n\n", "a" * 1000, "a" * 1001, "\ud800b", SEPARATOR * 2, "\x1b[0m",
             None]
        )  # fmt: skip
    elif how == 2:
        known = content["vocabulary"]
        at = choose.randrange(len(known))
        content["vocabulary"] = known[:at] + choose.choice([SEPARATOR, UNKNOWN]) + known[at + 1 :]
    else:
        content["format_version"] = choose.choice([1, 2, 3, 4, 5])


def spoil_ngrams(draft, choose, other):
    level = choose.randrange(len(draft.content["ngrams"]))
    known = draft.content["ngrams"][level]
    at = choose.randrange(len(known))
    characters = choose.choice(
        ["\ud800", "\udcff", "\x1b", "", "ab", "\U0010ffff", known[0], known[: level + 2]]
    )
    draft.content["ngrams"][level] = known[:at] + characters + known[at + 1 :]


def spoil_start(draft, choose, other):
    draft.content["start"] = spoil(draft.content["start"], choose)


def spoil_text(draft, choose, other):
    text = draft._text()
    at = choose.randrange(len(text))
    draft.text = text[:at] + choose.choice(
        ["[" * 20, "[" * 5000, "{", "}", '"', ",", "9" * 99, "9" * 101, "9" * 5000, "1e999", "NaN",
         "Infinity", "\\ud800", "\\u0000", "\x00", " ", '"config":0,', "é", "\ud800"]
    ) + text[at:]  # fmt: skip


def spoil_length(draft, choose, other):
    size = len(draft.joined()) - 8
    draft.length = choose.choice(
        [0, 1, 2, size - len(draft.body) - 1, size - len(draft.body) + 1, size, size + 1, 2**24,
         2**24 + 1, 2**31, 2**63, 2**64 - 1]
    )  # fmt: skip


MUTATIONS = [
    spoil_content, spoil_content, spoil_config, spoil_config, spoil_config, spoil_entry,
    spoil_entry, rename, duplicate, drop, shuffle, exchange, splice, spoil_array, spoil_array,
    spoil_vocabulary, spoil_special, spoil_ngrams, spoil_start, spoil_text, spoil_length,
]  # fmt: skip


def spoil_bytes(data, choose, other):
    """Return a file with some bytes changed, removed or added."""
    at, length = choose.randrange(len(data)), choose.choice([1, 1, 4, 8, 64, 1000])
    how = choose.randrange(7)
    if how == 0:
        changed = bytearray(data)
        changed[at] ^= 1 << choose.randrange(8)
        return bytes(changed)
    if how == 1:
        return data[:at]
    if how == 2:
        return data + choose.randbytes(length)
    if how == 3:
        return data[:at] + data[at + length :]
    if how == 4:
        return data[:at] + data[at : at + length] + data[at:]
    if how == 5:
        return data[:at] + other[at:]
    return data[:at] + choose.randbytes(length) + data[at + length :]


def mutant(number, files):
    """Return (bytes, key, whether its checksum was recomputed) of a mutant of one of `files`."""
    choose = random.Random(number)
    (data, key), (other, other_key) = choose.choice(files), choose.choice(files)
    if choose.random() < 0.25:
        for _ in range(choose.choice([1, 1, 2, 5])):
            data = spoil_bytes(data, choose, other) or b"\0"
        return data, key, False
    draft, another = Draft(data, key), Draft(other, other_key)
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        with contextlib.suppress(Exception):  # a mutation may not apply after another one
            choose.choice(MUTATIONS)(draft, choose, another)
    sealed = choose.random() < 0.8
    return draft.sealed() if sealed else draft.joined(), key, sealed


# --- Checks


class Watch:
    """Records, while it is on, every audited event except opening one file for reading."""

    def __init__(self, path):
        self._path, self.on, self.seen = str(path), False, []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self.on and (event, *map(str, arguments[:2])) != ("open", self._path, "r"):
            self.seen.append(f"{event} {arguments}")


def fault_of(path, key, watch, valid=None):
    """Return what is wrong in reading the file, or None; and whether it was refused.

    A file that is not refused must have the content of one of `valid`, unless that is None.
    """
    start, watch.seen, watch.on = time.process_time(), [], True
    refusal = None
    try:
        result = read_model(path) if key == checkpoint.MODEL_KEY else read_state(path)
    except CharRNNError as error:
        refusal = error
    finally:
        watch.on = False
    seconds = time.process_time() - start
    if watch.seen:
        return f"it did {watch.seen}", False
    if seconds > SECONDS:
        return f"it took {seconds:.1f} s", False
    if refusal is not None:
        return fault_of_refusal(refusal, path), True
    fault = fault_of_equality(result, path, valid) if valid else None
    return fault or fault_of_content(result, path), False


def fault_of_refusal(error, path):
    message = str(error)
    if isinstance(error.__cause__, MemoryError):
        return "it needed more memory than the limit"
    if (
        not message.isprintable()
        or len(message) > 600
        or not message.startswith(display_path(path))
    ):
        return f"its message is {message!r}"
    return None


def fault_of_content(result, path):
    """A file that is read must be valid, and `info` must describe it in printable characters."""
    if isinstance(result, State):
        config = result.config
        assert len(result.members) == result.options.ensemble
        groups = [g for m in result.members for g in m.flat_arrays.items()]
    else:
        config, groups = ModelConfig(**result.config), [("weights", result.tensors)]
        assert len(result.vocabulary) == config.vocab_size
        assert result.vocabulary.decode(range(config.vocab_size)).encode()
        assert not config.has_records or result.vocabulary.writable[config.record_end_id]
        parts = config.has_records, result.vocabulary.separator, result.vocabulary.unknown_id >= 0
        assert result.format_version == 4 or not any(parts)
        if result.start is not None:
            shape = config.num_layers, CELL_SHAPES[config.cell].states, config.hidden_size
            states = result.start.states
            assert states.shape[:2] + states.shape[3:] == shape and states.size
            assert np.isfinite(states).all() and 0 <= result.start.id < config.vocab_size
            check_recent(result.start.recent, config, states.shape[2])
    check_ngrams(result.ngrams, config)
    for group, tensors in groups:  # the optimizer's have no n-grams
        own = config if group == "weights" else replace(config, num_ngrams=0)
        assert {n: t.shape for n, t in tensors.items()} == tensor_shapes(vars(own))
        assert all(t.dtype == np.float32 and np.isfinite(t).all() for t in tensors.values())
    if isinstance(result, State):
        check_recent(result.recent, config, result.hidden.shape[2])
        for member in result.members:
            check_last_steps(member, config, result.progress.step)
        result.rng.random()
        return None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        info.command.callback(str(path), sample=False, as_json=False)
        info.command.callback(str(path), sample=False, as_json=True)
    shown_raw = not out.getvalue().replace("\n", "").isprintable()
    return "info shows unprintable characters" if shown_raw else None


def check_last_steps(member, config, steps):
    assert member.ngram_mean_square.shape[:1] == member.ngram_last_step.shape
    assert member.ngram_last_step.shape == (config.num_ngrams,)
    assert member.ngram_last_step.dtype == np.int32
    assert all(0 <= step <= steps for step in member.ngram_last_step.tolist())


def check_recent(recent, config, rows):
    assert recent.shape == (config.ngrams - 1, rows) and recent.dtype == np.int32
    assert (recent >= -1).all() and (recent < config.vocab_size).all()


def check_ngrams(table, config):
    """Each length is sorted, without duplicates, of known ids, and its beginnings are known."""
    known = {(i,) for i in range(config.vocab_size)}
    assert sum(map(len, table)) == config.num_ngrams and len(table) == config.ngrams - 1
    for n, ngrams in enumerate(table, 2):
        assert ngrams.shape[1:] == (n,) and ngrams.dtype == np.int32
        level = [tuple(ngram) for ngram in ngrams.tolist()]
        assert level == sorted(set(level))
        assert all(ngram[:-1] in known and ngram[-1:] in known for ngram in level)
        known |= set(level)


def fault_of_equality(result, path, valid):
    """A mutant without a recomputed checksum can only be read if its content is unchanged."""
    if isinstance(result, State):
        result.save(path)
    else:
        checkpoint.save_model(path, *result[:4], result.start, result.ngrams)
    return None if path.read_bytes() in valid else "it is changed, and no check has found it"


def limit_memory():
    """Limit the address space to MEGABYTES more, so that claims of terabytes fail."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEGABYTES << 20),) * 2)


def main(count=100_000, first=0):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant\x1b")
        files = valid_files(Path(folder))
        watch, valid = Watch(path), {data for data, _ in files}
        for data, key in files:  # imports everything that reading needs
            path.write_bytes(data)
            _, refused = fault_of(path, key, watch)
            assert not refused, "a valid file must be read"
        limit_memory()
        start, report = time.monotonic(), {"mutants": 0, "refused": 0, "faults": {}}
        for number in range(first, first + count):
            data, key, sealed = mutant(number, files)
            path.write_bytes(data)
            try:
                fault, refused = fault_of(path, key, watch, None if sealed else valid)
            except Exception as error:
                traceback.print_exc()
                fault, refused = repr(error), False
            report["mutants"] += 1
            report["refused"] += refused
            if fault:
                report["faults"][number] = fault[:300]
    report["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(report))
    sys.exit(bool(report["faults"]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
