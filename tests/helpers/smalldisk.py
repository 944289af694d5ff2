"""Train on a small disk that is full for some steps, and print the notices of the run by step.

python smalldisk.py CORPUS FOLDER
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from runs import files_in, result_of, started, trained

SETTINGS = {"steps": 20, "seed": 5}


def main(corpus_file, folder):
    ballast = folder / "ballast"
    events = {3: lambda: fill(ballast), 6: ballast.unlink}
    notices = {}
    for report in started(corpus_file, folder / "m", save_every=0, **SETTINGS):
        if report.notice:
            known = re.search("No space left on device|saved again", report.notice)
            notices[report.step] = known[0] if known else report.notice
        events.get(report.step, lambda: None)()
    with tempfile.TemporaryDirectory() as elsewhere:
        trained(corpus_file, Path(elsewhere) / "m", **SETTINGS)
        assert result_of(folder / "m") == result_of(Path(elsewhere) / "m")
    assert files_in(folder) == ["m", "m.log.jsonl", "m.state.safetensors"]
    print(json.dumps(notices))


def fill(path):
    """Let the file fill the disk."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
