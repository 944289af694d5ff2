"""The command in a process that tells how much memory it took.

    python measured.py LIMIT SECONDS ARGUMENT...

LIMIT is the address space in bytes that it may take, SECONDS the time after which it ends; 0: any.
The last line on stderr is JSON: the peaks of what was in memory and of the address space, in bytes.
(What the kernel tells of a child in ru_maxrss is at least the size of the process that started it.)
"""

import json
import resource
import signal
import sys

from charrnn.cli import main


def memory(pid="self"):
    """{name: bytes} of a process, as Linux has it."""
    with open(f"/proc/{pid}/status") as file:
        lines = (line.split() for line in file)
        return {words[0][:-1]: 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def end(number, frame):
    raise SystemExit(0)


if __name__ == "__main__":
    limit, seconds = map(int, sys.argv[1:3])
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        main(sys.argv[3:], prog_name="charrnn")
    finally:
        found = memory()
        print(json.dumps({"peak": found["VmHWM"], "space": found["VmPeak"]}), file=sys.stderr)
