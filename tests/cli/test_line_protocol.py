"""A process that answers each line of stdin with a line of JSON, as the README shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
CLIENTS = re.search("A process that stays.*?```python\n(.*?)```\n```bash\n(.*?)```", README, re.S)


@pytest.fixture
def installed(working_folder, model_file, monkeypatch):
    """A folder with model.safetensors, where `charrnn` is on the path."""
    shutil.copy(model_file, working_folder / "model.safetensors")
    script = working_folder / "bin" / "charrnn"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m charrnn "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return working_folder


def test_the_client_in_python_gets_answers(installed):
    names = {}
    exec(CLIENTS[1], names)
    process, answer = names["process"], names["answer"]
    texts = [answer(prime) for prime in ("MARA", "TOM", "")]
    assert all(len(text) == 80 for text in texts)
    assert [answer("MARA") for _ in range(2)] != texts[:2]
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_client_in_bash_gets_an_answer(installed):
    script = CLIENTS[2].replace("Once upon", "MARA") + 'echo "$answer"\n'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    found = json.loads(result.stdout)
    assert found["prime"] == "MARA" and len(found["text"]) == 80


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_thousand_requests_take_no_more_memory(spawn, model_file):
    process = spawn(
        *("sample", "-m", model_file, "--primes", "-", "--jsonl", "--length", "80"), stdin=-1
    )
    peaks = []
    for i in range(1001):
        prime = "MARA: The tide "[: i % 15]
        process.stdin.write(prime.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["index"] == i
        if i in (100, 1000):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
    assert peaks[1] < peaks[0] + 1024  # KB
    process.stdin.close()
