"""Build a large training text from the sources of Python's standard library.

Usage: python data/build_python_corpus.py OUTPUT

The script joins the .py files of the standard library, in sorted order and
with LF line ends, up to about 8 MB. It omits installed packages, test folders,
files that are not valid UTF-8 and files larger than 500 KB.
"""

import os
import sys
import sysconfig
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
MAX_FILE_BYTES = 500_000
MAX_TOTAL_BYTES = 8_000_000


def main(output):
    library = Path(sysconfig.get_path("stdlib"))
    num_files = num_bytes = 0
    with open(output + ".tmp", "wb") as out:
        for path in sorted(library.rglob("*.py")):
            if SKIPPED_FOLDERS.intersection(path.relative_to(library).parts):
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                continue
            try:  # reading as text also converts every line end to LF
                text = path.read_text(encoding="utf-8-sig").strip("\n")
            except UnicodeDecodeError:
                continue
            data = (text + "\n\n").encode("utf-8") if text else b""
            if num_bytes + len(data) > MAX_TOTAL_BYTES:
                break
            out.write(data)
            num_files += bool(data)
            num_bytes += len(data)
    os.replace(output + ".tmp", output)
    print(f"{output}: {num_files} files, {num_bytes:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python data/build_python_corpus.py OUTPUT")
    main(sys.argv[1])
