"""Build a large training text from the sources of Python's own library.

Usage: python data/build_python_corpus.py OUTPUT

Joins the .py files of the standard library, in sorted order and with LF line
ends, up to about 8 MB. Installed packages and test folders are left out, and
so are files that are not valid UTF-8 or are larger than 500 KB.
"""

import os
import sys
import sysconfig
from pathlib import Path

SKIP = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
MAX_FILE = 500_000
MAX_TOTAL = 8_000_000


def main(output):
    top = Path(sysconfig.get_path("stdlib"))
    files = total = 0
    with open(output + ".tmp", "wb") as out:
        for path in sorted(top.rglob("*.py")):
            if SKIP.intersection(path.relative_to(top).parts):
                continue
            if path.stat().st_size > MAX_FILE:
                continue
            try:  # reading as text also turns every line end into LF
                text = path.read_text(encoding="utf-8-sig").strip("\n")
            except UnicodeDecodeError:
                continue
            data = (text + "\n\n").encode("utf-8") if text else b""
            if total + len(data) > MAX_TOTAL:
                break
            out.write(data)
            files += bool(data)
            total += len(data)
    os.replace(output + ".tmp", output)
    print(f"{output}: {files} files, {total:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python data/build_python_corpus.py OUTPUT")
    main(sys.argv[1])
