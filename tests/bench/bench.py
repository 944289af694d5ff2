"""Benchmark charrnn, with PyTorch for comparison if it is installed: `make bench`.

    python tests/bench/bench.py [--seconds 8] [PART ...]      for the names of parts see PARTS

Both sides are warmed up and then measured in turn; the ratio is the median of the pairwise ratios.
Losses are compared with PyTorch's before anything is timed. A table is printed to stdout row by
row; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import processes

from charrnn.api import LanguageModel
from charrnn.config import ModelConfig, ResolvedOptions
from charrnn.generation.sampler import generate
from charrnn.network.arrays import zeros
from charrnn.network.cores import usable_cores
from charrnn.network.jit import BFLOAT16
from charrnn.network.kernels.matmul import pack, product
from charrnn.network.model import Model
from charrnn.text.vocabulary import CharVocabulary
from charrnn.training.trainer import Trainer

try:
    import torch
except ImportError:
    torch = None

THREADS = min(2, usable_cores())
LEARNING_RATE, CLIP = 2e-3, 5.0

# name: cell, layers, hidden size, batch, sequence, vocabulary
SHAPES = {
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


def make_model(shape: tuple, threads: int = THREADS) -> Model:
    cell, layers, hidden, _, _, vocabulary = shape
    config = ModelConfig(vocabulary, cell, hidden, layers)
    return Model(config, np.random.default_rng(0), threads=threads)


def make_batch(shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    _, _, _, batch, steps, vocabulary = shape
    ids = np.random.default_rng(1).integers(0, vocabulary, (2, steps, batch))
    return tuple(ids.astype(np.int32))


def charrnn_step(
    shape: tuple, threads: int = THREADS, precision: str = "float32"
) -> Callable[[], float]:
    """A whole training step: forward, loss, backward, clipping, optimizer, packing, state."""
    cell, layers, hidden, batch, steps, vocabulary = shape
    config = ModelConfig(vocabulary, cell, hidden, layers)
    options = ResolvedOptions(
        steps=1,
        learning_rate=LEARNING_RATE,
        batch_size=batch,
        seq_length=steps,
        optimizer="adam",
        clip_norm=CLIP,
        precision=precision,
    )
    trainer = Trainer(config, options, np.random.default_rng(0), threads)
    x, y = make_batch(shape)

    def step() -> float:
        loss, gradient_norm = trainer.compute(x, y)
        trainer.update(LEARNING_RATE, gradient_norm)
        return loss

    return step


def torch_modules(shape: tuple, weights: dict[str, np.ndarray]):
    """Embedding, network and output layer; the embedding starts as the one-hot function."""
    cell, layers, hidden, _, _, vocabulary = shape
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    rnn, output = kind(vocabulary, hidden, layers), torch.nn.Linear(hidden, vocabulary)
    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    rnn.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("rnn.")})
    output.load_state_dict({n[7:]: t for n, t in tensors.items() if n.startswith("output.")})
    embedding = torch.nn.Embedding.from_pretrained(torch.eye(vocabulary), freeze=False)
    return embedding, rnn, output


def torch_step(shape: tuple, threads: int = THREADS, autocast: bool = False) -> Callable[[], float]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    x, y = (torch.tensor(a.astype(np.int64)) for a in make_batch(shape))
    embedding, rnn, output = torch_modules(shape, make_model(shape).state_dict())
    parameters = [*rnn.parameters(), *output.parameters(), *embedding.parameters()]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, (0.9, 0.99), fused=True)
    state = None

    def step() -> float:
        nonlocal state
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
    ours, torch_steps = charrnn_step(shape, precision=precision), [None]
    if torch:
        autocasts = (False, True) if is_bfloat16 else (False,)
        torch_steps = [torch_step(shape, autocast=autocast) for autocast in autocasts]
        # PyTorch trains the embedding, too, so only the first losses are equal.
        losses = [step() for step in (ours, *torch_steps)]
        assert np.allclose(losses, losses[0], rtol=1e-3 if is_bfloat16 else 1e-4), losses
    results = [in_turn(ours, theirs, seconds / len(torch_steps)) for theirs in torch_steps]
    result = min(results, key=lambda r: r.get("other_ms", 0.0))
    result["chars_per_second"] = shape[3] * shape[4] / result["ms"] * 1e3
    return result


def two_threads(seconds: float) -> dict[str, float]:
    shape = SHAPES["lstm-2x256"]
    return in_turn(charrnn_step(shape, 2), charrnn_step(shape, 1), seconds)


def flops_per_step(shape: tuple) -> float:
    """Floating-point operations of the products in a step: forward, and twice that backward."""
    _, layers, hidden, batch, steps, vocabulary = shape
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[shape[0]]
    weights = gates * hidden * hidden * (2 * layers - 1) + hidden * vocabulary
    return 6.0 * weights * batch * steps


def microkernel_speed(seconds: float) -> dict[str, float]:
    """GFLOP/s of the microkernel, data in cache, and of a step of LSTM 2x512; one thread."""
    a, c = zeros((96, 256), np.float32), zeros((96, 64), np.float32)
    b = zeros((4, 256, 16), np.float32)
    calls = [(a, b, c)] * 50

    def microkernel() -> None:
        for arguments in calls:
            product(*arguments)

    shape = SHAPES["lstm-2x512"]
    result = in_turn(microkernel, charrnn_step(shape, 1), seconds)
    gflops = 2e-9 * 96 * 256 * 64 * len(calls) / (result["ms"] * 1e-3)
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


def _torch_sampler(shape: tuple, weights: dict, length: int) -> Callable[[], None]:
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
    vocabulary = CharVocabulary("".join(map(chr, range(32, 32 + shape[5]))))
    model = LanguageModel(make_model(shape), vocabulary, {})

    def write(count: int, seed: int) -> None:
        for pieces in model.texts(count, length, seed=seed):
            assert sum(map(len, pieces)) == length

    result = in_turn(
        lambda: write(texts, 0), lambda: [write(1, seed) for seed in range(alone)], seconds
    )
    for name in "other_ms", "ratio_low", "ratio", "ratio_high":
        result[name] *= texts / alone
    return result | {"chars_per_second": texts * length / result["ms"] * 1e3}


PARTS: dict[str, Callable[[float], dict[str, float]]] = {
    **{name: lambda seconds, name=name: training(name, seconds) for name in SHAPES},
    **{
        f"bf16-{name}": lambda seconds, name=name: training(name, seconds, "bfloat16")
        for name in ("lstm-2x256", "lstm-2x512")
        if BFLOAT16
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
    arguments = parser.parse_args()
    print(f"compared with: {'PyTorch ' + torch.__version__ if torch else 'nothing (no PyTorch)'}")
    results = {}
    for part in arguments.parts or PARTS:
        results[part] = {k: round(v, 3) for k, v in PARTS[part](arguments.seconds).items()}
        print(
            f"{part:18}", "  ".join(f"{k} {v:,.6g}" for k, v in results[part].items()), flush=True
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
