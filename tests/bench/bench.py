"""How fast charrnn is, beside PyTorch where that is installed: `make bench`, or a part by name.

    python tests/bench/bench.py [--seconds 8] [PART ...]      parts: see PARTS, or shapes by name

Everything is measured side by side: both warmed, then in turn, and the ratio is the median of the
pairwise ones. Results are checked against PyTorch's before anything is timed. A table goes to
stdout as it grows; its last line is one JSON document.
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
from charrnn.network.jit import BFLOAT16, usable_cores
from charrnn.network.kernels.matmul import pack, product, zeros
from charrnn.network.model import Model
from charrnn.text.vocabulary import Vocabulary
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


def model_of(shape: tuple, threads: int = THREADS) -> Model:
    cell, layers, hidden, _, _, vocabulary = shape
    config = ModelConfig(vocabulary, cell, hidden, layers)
    return Model(config, np.random.default_rng(0), threads=threads)


def batch_of(shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    _, _, _, batch, steps, vocabulary = shape
    ids = np.random.default_rng(1).integers(0, vocabulary, (2, steps, batch))
    return tuple(ids.astype(np.int32))


def our_step(
    shape: tuple, threads: int = THREADS, precision: str = "float32"
) -> Callable[[], float]:
    """A whole step of training: forward, loss, backward, clip, optimizer, packing, state."""
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
    x, y = batch_of(shape)

    def step() -> float:
        loss, gradient_norm = trainer.compute(x, y)
        trainer.update(LEARNING_RATE, gradient_norm)
        return loss

    return step


def torch_modules(shape: tuple, weights: dict[str, np.ndarray]):
    """An embedding of one-hot size (the same function), the network and the output layer."""
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
    x, y = (torch.tensor(a.astype(np.int64)) for a in batch_of(shape))
    embedding, rnn, output = torch_modules(shape, model_of(shape).state_dict())
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
    """Median milliseconds of a and of b, and the median of their ratio b / a with its quartiles.

    They run in turn, in blocks of some tenths of a second: PyTorch's OpenMP threads keep spinning
    for a while after its last operation and would slow down whatever comes next, so the first run
    of a block does not count.
    """
    for _ in range(2):
        a()
        if b:
            b()
    blocks: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(blocks) < 5 or time.perf_counter() < end:
        blocks.append((_median_of_block(a), _median_of_block(b) if b else 0.0))
    result = {"ms": 1e3 * statistics.median(t for t, _ in blocks)}
    if b:
        ratios = statistics.quantiles([other / own for own, other in blocks], n=4)
        result["other_ms"] = 1e3 * statistics.median(t for _, t in blocks)
        result |= dict(zip(("ratio_low", "ratio", "ratio_high"), ratios, strict=True))
    return result


def _median_of_block(run: Callable, seconds: float = 0.25) -> float:
    run()
    times = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training(name: str, seconds: float, precision: str = "float32") -> dict[str, float]:
    """In bfloat16 against the better of PyTorch's float32 and its bfloat16 autocast."""
    shape, rounded = SHAPES[name], precision == "bfloat16"
    ours, others = our_step(shape, precision=precision), [None]
    if torch:
        others = [torch_step(shape, autocast=autocast) for autocast in [False, True][: 1 + rounded]]
        # The embedding, too, learns in PyTorch, so that only the first loss is the same.
        losses = [step() for step in (ours, *others)]
        assert np.allclose(losses, losses[0], rtol=1e-3 if rounded else 1e-4), losses
    results = [in_turn(ours, theirs, seconds / len(others)) for theirs in others]
    result = min(results, key=lambda r: r.get("other_ms", 0.0))
    result["chars_per_second"] = shape[3] * shape[4] / result["ms"] * 1e3
    return result


def two_threads(seconds: float) -> dict[str, float]:
    shape = SHAPES["lstm-2x256"]
    return in_turn(our_step(shape, 2), our_step(shape, 1), seconds)


def flops(shape: tuple) -> float:
    """Multiply-adds, times two, of the products of a step: forward, and twice that backward."""
    _, layers, hidden, batch, steps, vocabulary = shape
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[shape[0]]
    weights = gates * hidden * hidden * (2 * layers - 1) + hidden * vocabulary
    return 6.0 * weights * batch * steps


def peak(seconds: float) -> dict[str, float]:
    """The tile's own rate, data near the core, beside the whole step of LSTM 2x512; one thread."""
    a, c = zeros((96, 256), np.float32), zeros((96, 64), np.float32)
    b = zeros((4, 256, 16), np.float32)
    many = [(a, b, c)] * 50

    def tiles() -> None:
        for arguments in many:
            product(*arguments)

    shape = SHAPES["lstm-2x512"]
    result = in_turn(tiles, our_step(shape, 1), seconds)
    gflops = 2e-9 * 96 * 256 * 64 * len(many) / (result["ms"] * 1e-3)
    step = flops(shape) * 1e-9 / (result["other_ms"] * 1e-3)
    return {"ms": result["ms"], "tile_gflops": gflops, "step_gflops": step, "share": step / gflops}


def tile_of_a_step(seconds: float) -> dict[str, float]:
    """The product at one step of LSTM 2x512 beside NumPy's matmul, one thread each."""
    rng = np.random.default_rng(0)
    a, w = zeros((25, 512), np.float32), rng.standard_normal((512, 1, 2048), np.float32)
    a[:] = rng.standard_normal(a.shape)
    b, c = zeros((128, 512, 16), np.float32), zeros((25, 2048), np.float32)
    pack(w, 0, b)
    product(a, b, c)
    assert np.allclose(c, a @ w[:, 0], rtol=1e-3, atol=1e-3)
    return in_turn(lambda: product(a, b, c), lambda: np.matmul(a, w[:, 0], out=c), seconds)


def sampling(name: str, seconds: float, length: int = 200) -> dict[str, float]:
    """One text, a character at a time, against a PyTorch loop that draws in the same way."""
    shape = SHAPES[name]
    model = model_of(shape, 1)
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


def many_texts(seconds: float, texts: int, length: int, alone: int) -> dict[str, float]:
    """So many texts at once against `alone` of them one after the other, per character."""
    shape = SHAPES["lstm-2x128"]
    vocabulary = Vocabulary("".join(map(chr, range(32, 32 + shape[5]))))
    model = LanguageModel(model_of(shape), vocabulary, {})

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
    "peak-2x512": peak,
    "numpy-25x512x2048": tile_of_a_step,
    "sample-2x128": lambda seconds: sampling("lstm-2x128", seconds),
    "sample-2x512": lambda seconds: sampling("lstm-2x512", seconds),
    "sample-64-texts": lambda seconds: many_texts(seconds, 64, 100, 16),
    "sample-1000-texts": lambda seconds: many_texts(seconds, 1000, 200, 20),
    **processes.PARTS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each part")
    arguments = parser.parse_args()
    print(f"other: {'PyTorch ' + torch.__version__ if torch else 'none (no PyTorch)'}")
    results = {}
    for part in arguments.parts or PARTS:
        results[part] = {k: round(v, 3) for k, v in PARTS[part](arguments.seconds).items()}
        print(
            f"{part:18}", "  ".join(f"{k} {v:,.6g}" for k, v in results[part].items()), flush=True
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
