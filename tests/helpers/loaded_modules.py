"""The modules that a process has loaded when it ends."""

import subprocess
import sys

RUN = """
import sys
from charrnn.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == {code}, end.code
"""


def modules_after(code, *arguments):
    """Run `code` in a new interpreter and return the names of the modules it has loaded."""
    code += "\nimport sys; sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(result.stderr.rpartition("MODULES ")[2].split())
