"""Benchmark charrnn, with PyTorch for comparison if it is installed: `make bench`.

    python tests/bench/bench.py [--seconds 8] [PART ...]      for the names of parts see PARTS
    python tests/bench/bench.py --profile PART                where the time of a training step goes

Both sides are warmed up and then measured in turn; the ratio is the median of the pairwise ratios.
Losses are compared with PyTorch's before anything is timed. A table is printed to stdout row by
row; the last line is one JSON document.

PyTorch's LSTM has neither n-gram rows nor recurrent dropout, and its Adam is not cautious: it runs
the plain shape, which does less. An ensemble is compared with that many PyTorch models: trained one
after another on all threads, or in parallel on one thread each, as fast as one alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import processes
from step_profile import measure, print_profile

from charrnn.api import LanguageModel
from charrnn.config import ModelConfig, ResolvedOptions
from charrnn.generation.sampler import generate
from charrnn.network.arrays import zeros
from charrnn.network.cells import CELLS
from charrnn.network.cores import usable_cores
from charrnn.network.jit import BFLOAT16, ThreadTeam
from charrnn.network.kernels.matmul import pack, product
from charrnn.network.model import Model
from charrnn.network.precision import PANEL_DTYPES
from charrnn.text.corpus import read_corpus
from charrnn.text.ngrams import NgramTable, count_ngrams
from charrnn.text.streams import BatchStreams, Chunk
from charrnn.text.vocabulary import CharVocabulary
from charrnn.training.ensemble import Ensemble

try:
    import torch
except ImportError:
    torch = None

THREADS = min(2, usable_cores())
LEARNING_RATE, CLIP = 2e-3, 5.0
TEXT = Path(__file__).parents[2] / "data" / "harbour.txt"


class Shape(NamedTuple):
    """What a training step computes."""

    cell: str
    layers: int
    hidden: int
    batch: int
    steps: int
    vocabulary: int
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    ngrams: int = 1
    members: int = 1  # of the ensemble
    optimizer: str = "adam"


SIZES = {  # in the order of Shape
    "lstm-2x128": ("lstm", 2, 128, 50, 50, 65),
    "lstm-1x256": ("lstm", 1, 256, 64, 64, 65),
    "lstm-2x256": ("lstm", 2, 256, 50, 50, 65),
    "lstm-2x512": ("lstm", 2, 512, 50, 100, 65),
    "lstm-3x512": ("lstm", 3, 512, 128, 100, 65),
    "gru-2x128": ("gru", 2, 128, 50, 50, 65),
    "gru-2x512": ("gru", 2, 512, 50, 100, 65),
    "rnn-2x128": ("rnn", 2, 128, 50, 50, 65),
    "rnn-1x100-b1": ("rnn", 1, 100, 1, 25, 65),
    "lstm-1x100-b1": ("lstm", 1, 100, 1, 25, 65),
    "lstm-1x256-v4000": ("lstm", 1, 256, 32, 64, 4000),
}
# What --time 1m, 3m, 10m chooses for a megabyte, and for a short text: members, layers, hidden
# size, n-grams, dropout, recurrent dropout. The planner's choices vary with the machine.
RECIPES = {
    "recipe-4x1x160": (4, 1, 160, 3, 0.1, 0.0),
    "recipe-4x1x256": (4, 1, 256, 3, 0.1, 0.0),
    "recipe-4x1x512": (4, 1, 512, 3, 0.1, 0.1),
    "recipe-2x2x256": (2, 2, 256, 1, 0.2, 0.4),
    **{f"b16-2x{hidden}": (1, 2, hidden, 1, 0.0, 0.0) for hidden in (128, 192, 256, 384)},
    **{f"b16-2x{hidden}-dropout": (1, 2, hidden, 1, 0.1, 0.1) for hidden in (128, 192, 256, 384)},
}


def _recipe(members: int, layers: int, hidden: int, ngrams: int, *dropouts: float) -> Shape:
    return Shape("lstm", layers, hidden, 16, 64, 65, *dropouts, ngrams, members, "cautious-adam")


SHAPES = {name: Shape(*sizes) for name, sizes in SIZES.items()}
SHAPES |= {name: _recipe(*recipe) for name, recipe in RECIPES.items()}


def make_config(shape: Shape, ngrams: NgramTable = ()) -> ModelConfig:
    sizes = shape.vocabulary, shape.cell, shape.hidden, shape.layers
    number = sum(map(len, ngrams))
    return ModelConfig(*sizes, dropout=shape.dropout, ngrams=len(ngrams) + 1, num_ngrams=number)


def make_model(shape: Shape, threads: int = THREADS) -> Model:
    return Model(make_config(shape), np.random.default_rng(0), threads=threads)


@cache
def text_ids(vocabulary: int) -> np.ndarray:
    """A text of `vocabulary` characters."""
    return np.asarray(read_corpus(TEXT).ids[:]).astype(np.int32) % vocabulary


def make_batches(shape: Shape) -> list[Chunk]:
    """Random ids; with n-grams, of which they have too many, chunks of a text."""
    if shape.ngrams > 1:
        streams = BatchStreams(text_ids(shape.vocabulary), shape.batch, shape.steps)
        return [streams.chunk(k) for k in range(streams.num_chunks - 1)]
    ids = np.random.default_rng(1).integers(0, shape.vocabulary, (2, shape.steps, shape.batch))
    return [tuple(ids.astype(np.int32))]


def charrnn_step(
    shape: Shape, threads: int = THREADS, precision: str = "float32", rate: float = LEARNING_RATE
) -> Callable[[], float]:
    """A whole training step: forward, loss, backward, clipping, optimizer, packing, state."""
    options = ResolvedOptions(
        steps=1,
        learning_rate=LEARNING_RATE,
        batch_size=shape.batch,
        seq_length=shape.steps,
        optimizer=shape.optimizer,
        recurrent_dropout=shape.recurrent_dropout,
        weight_decay=0.0 if shape.optimizer == "adam" else 0.03,
        ensemble=shape.members,
        clip_norm=CLIP,
        precision=precision,
    )
    ngrams = ()
    if shape.ngrams > 1:
        ngrams = count_ngrams(text_ids(shape.vocabulary), shape.vocabulary, shape.ngrams)
    rng = np.random.default_rng(0)
    models = Ensemble(make_config(shape, ngrams), options, rng, threads, ngrams)
    batches, seeds = itertools.cycle(make_batches(shape)), itertools.count()

    def step() -> float:
        loss, _ = models.compute(*next(batches), next(seeds))
        models.update(rate)
        return loss

    return step


def torch_modules(shape: Shape, weights: dict[str, np.ndarray]):
    """Embedding, network and output layer; the embedding starts as the one-hot function."""
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[shape.cell]
    rnn = kind(shape.vocabulary, shape.hidden, shape.layers)
    output = torch.nn.Linear(shape.hidden, shape.vocabulary)
    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    rnn.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("rnn.")})
    output.load_state_dict({n[7:]: t for n, t in tensors.items() if n.startswith("output.")})
    embedding = torch.nn.Embedding.from_pretrained(torch.eye(shape.vocabulary), freeze=False)
    return embedding, rnn, output


def torch_step(shape: Shape, threads: int = THREADS, autocast: bool = False) -> Callable[[], float]:
    """The step of one member without n-grams and dropout."""
    torch.set_flush_denormal(True)
    batches = itertools.cycle(
        [[torch.tensor(a.astype(np.int64)) for a in batch] for batch in make_batches(shape)]
    )
    embedding, rnn, output = torch_modules(shape, make_model(shape).state_dict())
    parameters = [*rnn.parameters(), *output.parameters(), *embedding.parameters()]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, (0.9, 0.99), fused=True)
    state = None

    def step() -> float:
        nonlocal state
        torch.set_num_threads(threads)
        x, y = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            h, end = rnn(embedding(x), state)
            loss = torch.nn.functional.cross_entropy(output(h).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        state = tuple(s.detach() for s in end) if isinstance(end, tuple) else end.detach()
        return loss.item()

    return step


def in_turn(a: Callable, b: Callable | None, seconds: float) -> dict[str, float]:
    """Median milliseconds of a and b, and the median and quartiles of the ratio b / a.

    They run in turn, in blocks of some tenths of a second. PyTorch's OpenMP threads spin for a
    while after its last operation and slow down the next one, so the first run of each block is
    discarded.
    """
    for _ in range(2):
        a()
        if b:
            b()
    blocks: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(blocks) < 5 or time.perf_counter() < end:
        blocks.append((_block_median(a), _block_median(b) if b else 0.0))
    result = {"ms": 1e3 * statistics.median(t for t, _ in blocks)}
    if b:
        ratios = statistics.quantiles([other / own for own, other in blocks], n=4)
        result["other_ms"] = 1e3 * statistics.median(t for _, t in blocks)
        result |= dict(zip(("ratio_low", "ratio", "ratio_high"), ratios, strict=True))
    return result


def _block_median(run: Callable, seconds: float = 0.25) -> float:
    run()
    times = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training(name: str, seconds: float, precision: str = "float32") -> dict[str, float]:
    """A training step; bfloat16 is compared with PyTorch's faster one of float32 and autocast."""
    shape, is_bfloat16 = SHAPES[name], precision == "bfloat16"
    ours, results = charrnn_step(shape, precision=precision), []
    ways = _torch_ways(shape, is_bfloat16)
    for threads, autocast in ways:
        theirs = torch_step(shape, threads, autocast)
        if not results and shape.members == 1 and not shape.dropout + shape.recurrent_dropout:
            # PyTorch trains the embedding, too, so only the first losses are equal.
            losses = ours(), theirs()
            assert np.allclose(*losses, rtol=1e-3 if is_bfloat16 else 1e-4), losses
        result = in_turn(ours, theirs, seconds / len(ways))
        scale(result, shape.members * threads / THREADS)
        results.append(result)
    result = min(results, key=lambda r: r["other_ms"]) if results else in_turn(ours, None, seconds)
    result["chars_per_second"] = shape.batch * shape.steps / result["ms"] * 1e3
    return result


def _torch_ways(shape: Shape, is_bfloat16: bool) -> list[tuple[int, bool]]:
    """(threads of a model, autocast) of the runs of PyTorch, of which the fastest counts."""
    if not torch:
        return []
    threads = {THREADS, 1} if shape.members > 1 else {THREADS}
    return list(itertools.product(threads, (False, True) if is_bfloat16 else (False,)))


def scale(result: dict[str, float], factor: float) -> None:
    """Multiply the time of the other side."""
    for name in result.keys() & {"other_ms", "ratio_low", "ratio", "ratio_high"}:
        result[name] *= factor


def two_threads(seconds: float) -> dict[str, float]:
    shape = SHAPES["lstm-2x256"]
    return in_turn(charrnn_step(shape, 2), charrnn_step(shape, 1), seconds)


def flops_per_step(shape: Shape) -> float:
    """Floating-point operations of the products in a step: forward, and twice that backward."""
    gates, hidden = CELLS[shape.cell].GATES, shape.hidden
    weights = gates * hidden * hidden * (2 * shape.layers - 1) + hidden * shape.vocabulary
    return 6.0 * weights * shape.batch * shape.steps * shape.members


MICROKERNEL_GFLOP = 2e-9 * 96 * 256 * 64 * 50  # of `microkernel` on each thread


def microkernel(threads: int = 1, precision: str = "float32") -> Callable[[], None]:
    """Products of the microkernel with data in the cache of each thread."""
    dtype, team = PANEL_DTYPES[precision], ThreadTeam(threads)
    depth = 256 if dtype == np.float32 else 128

    def operands() -> tuple[np.ndarray, ...]:
        shapes = ((96, 256), np.float32), ((4, depth, 16), dtype), ((96, 64), np.float32)
        return tuple(zeros(*shape) for shape in shapes)

    of_threads = [operands() for _ in range(threads)]

    def task(i: int, size: int) -> None:
        for _ in range(50):
            product(*of_threads[i])

    return lambda: team.run(task)


def microkernel_speed(seconds: float) -> dict[str, float]:
    """GFLOP/s of the microkernel, data in cache, and of a step of LSTM 2x512; one thread."""
    shape = SHAPES["lstm-2x512"]
    result = in_turn(microkernel(), charrnn_step(shape, 1), seconds)
    gflops = MICROKERNEL_GFLOP / (result["ms"] * 1e-3)
    step = flops_per_step(shape) * 1e-9 / (result["other_ms"] * 1e-3)
    return {
        "ms": result["ms"],
        "microkernel_gflops": gflops,
        "step_gflops": step,
        "fraction": step / gflops,
    }


def numpy_product(seconds: float) -> dict[str, float]:
    """The product of one time step of LSTM 2x512 and NumPy's matmul, one thread each."""
    rng = np.random.default_rng(0)
    a, w = zeros((25, 512), np.float32), rng.standard_normal((512, 1, 2048), np.float32)
    a[:] = rng.standard_normal(a.shape)
    b, c = zeros((128, 512, 16), np.float32), zeros((25, 2048), np.float32)
    pack(w, 0, b)
    product(a, b, c)
    assert np.allclose(c, a @ w[:, 0], rtol=1e-3, atol=1e-3)
    return in_turn(lambda: product(a, b, c), lambda: np.matmul(a, w[:, 0], out=c), seconds)


def sampling(name: str, seconds: float, length: int = 200) -> dict[str, float]:
    """One text, character by character, and a PyTorch loop that samples in the same way."""
    shape = SHAPES[name]
    model = make_model(shape, 1)
    ids = generate(model, np.array([0]), np.random.default_rng(0))

    def ours() -> None:
        for _ in range(length):
            next(ids)

    theirs = _torch_sampler(shape, model.state_dict(), length) if torch else None
    result = in_turn(ours, theirs, seconds)
    return result | {"chars_per_second": length / result["ms"] * 1e3}


def _torch_sampler(shape: Shape, weights: dict, length: int) -> Callable[[], None]:
    embedding, rnn, output = torch_modules(shape, weights)
    rng, state, x = np.random.default_rng(0), None, torch.zeros((1, 1), dtype=torch.long)

    def theirs() -> None:
        nonlocal state, x
        with torch.no_grad():
            for _ in range(length):
                h, state = rnn(embedding(x), state)
                p = torch.softmax(output(h)[0, 0].double(), 0).numpy()
                cdf = p.cumsum()
                i = np.searchsorted(cdf / cdf[-1], rng.random(), side="right")
                x = torch.tensor([[int(i)]])

    return theirs


def batched_sampling(seconds: float, texts: int, length: int, alone: int) -> dict[str, float]:
    """`texts` generated in a batch and `alone` texts one after the other, per character."""
    shape = SHAPES["lstm-2x128"]
    vocabulary = CharVocabulary("".join(map(chr, range(32, 32 + shape.vocabulary))))
    model = LanguageModel(make_model(shape), vocabulary, {})

    def write(count: int, seed: int) -> None:
        for pieces in model.texts(count, length, seed=seed):
            assert sum(map(len, pieces)) == length

    result = in_turn(
        lambda: write(texts, 0), lambda: [write(1, seed) for seed in range(alone)], seconds
    )
    scale(result, texts / alone)
    return result | {"chars_per_second": texts * length / result["ms"] * 1e3}


# Name: shape, precision.
TRAINING = {name: (name, "float32") for name in SHAPES} | {
    f"bf16-{name}": (name, "bfloat16")
    for name in ("lstm-2x256", "lstm-2x512", *RECIPES)
    if BFLOAT16
}


def profile(name: str, seconds: float) -> None:
    """Print a table of where the time of a training step goes."""
    shape, precision = SHAPES[TRAINING[name][0]], TRAINING[name][1]
    measured = measure(
        lambda: charrnn_step(shape, precision=precision, rate=0.0),
        microkernel(THREADS, precision),
        THREADS,
        seconds,
    )
    gflop = 1e-9 * flops_per_step(shape), MICROKERNEL_GFLOP * THREADS
    print_profile(measured, THREADS, *gflop)


PARTS: dict[str, Callable[[float], dict[str, float]]] = {
    **{
        part: lambda seconds, what=what: training(what[0], seconds, what[1])
        for part, what in TRAINING.items()
    },
    "two-threads": two_threads,
    "peak-2x512": microkernel_speed,
    "numpy-25x512x2048": numpy_product,
    "sample-2x128": lambda seconds: sampling("lstm-2x128", seconds),
    "sample-2x512": lambda seconds: sampling("lstm-2x512", seconds),
    "sample-64-texts": lambda seconds: batched_sampling(seconds, 64, 100, 16),
    "sample-1000-texts": lambda seconds: batched_sampling(seconds, 1000, 200, 20),
    **processes.PARTS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--seconds", type=float, default=8.0, help="time per part")
    parser.add_argument("--profile", choices=TRAINING, metavar="PART", help="of training")
    arguments = parser.parse_args()
    if arguments.profile:
        profile(arguments.profile, arguments.seconds)
        return
    print(f"compared with: {'PyTorch ' + torch.__version__ if torch else 'nothing (no PyTorch)'}")
    results = {}
    for part in arguments.parts or PARTS:
        results[part] = {k: round(v, 3) for k, v in PARTS[part](arguments.seconds).items()}
        print(
            f"{part:24}", "  ".join(f"{k} {v:,.6g}" for k, v in results[part].items()), flush=True
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
