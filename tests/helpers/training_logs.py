"""Lines of training logs, and files of them."""

import json


def write_log(path, lines, end=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path


def line_of(step, train=2.0, val=None, seconds=None):
    return {
        "step": step,
        "epoch": step / 100,
        "chars": step * 1000,
        "train_loss": train,
        "val_loss": val,
        "learning_rate": 0.01,
        "chars_per_second": 1000.0,
        "seconds": float(step if seconds is None else seconds),
    }


def lines_of(steps, best, floor=1.5):
    """A run of `steps` steps whose validation loss is lowest at step `best`."""
    for step in range(1, steps + 1):
        val = floor + abs(step - best) / steps if step % 10 == 0 else None
        yield line_of(step, 1 + 2 / step, val)
