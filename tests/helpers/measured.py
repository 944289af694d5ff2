"""Run the command and report how much memory it took.

    python measured.py LIMIT SECONDS ARGUMENT...

LIMIT is the address space in bytes that it may take, SECONDS the time after which it ends; 0 means
no limit. The last line on stderr is JSON: the peak resident memory and the peak address space, in
bytes. (ru_maxrss of a child process is no measure: it is at least the size of its parent.)
"""

import json
import resource
import signal
import sys

from charrnn.cli import main


def memory(pid="self"):
    """Return {name: bytes} of a process, from Linux's /proc."""
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
