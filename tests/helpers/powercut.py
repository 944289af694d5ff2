"""A model of a disk that records what was flushed, and what it may hold after a power cut.

A file has bytes that were flushed and bytes that were only written; a folder has names that were
flushed and changes of names that were not. After a power cut each of these changes may be lost.
None, half or all of the unflushed bytes may be there, or zeros in their place: worse than real file
systems.
"""

import itertools
import os
from dataclasses import dataclass, field


@dataclass(eq=False)
class File:
    written: bytes = b""
    flushed: bytes = b""

    def remains(self):
        """Return the contents that the file may have after a power cut."""
        lost = len(self.written) - len(self.flushed)
        half = self.written[: len(self.flushed) + lost // 2]
        return {self.flushed, half, self.flushed + bytes(lost), self.written}


@dataclass
class Disk:
    """One folder of files, the run lock excepted. `at` is for faults.Calls."""

    deaf_to: str = ""  # "files" or "folders": flushing them has no effect
    promised: int = -1  # the step that the run has reported as saved
    names: dict = field(default_factory=dict)
    flushed: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)  # unflushed [(name, its new file or None)]
    # {what a power cut may leave, as {(name, bytes)}: the step promised before}
    remains: dict = field(default_factory=dict)

    def at(self, call, path, data=None):
        name = os.path.basename(path)
        follow = getattr(self, "_" + call, None)
        if follow and not name.endswith(".lock"):
            follow(name, data)
            self._cut()

    def _created(self, name, _):
        self._change(name, File())

    def _written(self, name, data):
        self.names[name].written += data

    def _fsynced(self, name, _):
        if name in self.names:
            if self.deaf_to != "files":
                self.names[name].flushed = self.names[name].written
        elif self.deaf_to != "folders":
            self.flushed, self.changes = dict(self.names), []

    def _replaced(self, name, target):
        self._change(os.path.basename(target), self.names[name])
        self._change(name, None)

    def _unlinked(self, name, _):
        self._change(name, None)

    def _change(self, name, file):
        self.names[name] = file
        if file is None:
            del self.names[name]
        self.changes.append((name, file))

    def _cut(self):
        """Record what may remain if the power fails now."""
        for changes in self._made():
            names = self.flushed | dict(changes)
            names = {name: file for name, file in names.items() if file is not None}
            # The content of temporary files does not matter: it is never read.
            contents = ({b""} if n.endswith(".tmp") else f.remains() for n, f in names.items())
            for content in itertools.product(*contents):
                remains = frozenset(zip(names, content, strict=True))
                self.remains[remains] = max(self.promised, self.remains.get(remains, -1))

    def _made(self):
        """Yield the sets of changes that may be on the disk; of many changes, only the first n."""
        if len(self.changes) > 6:
            return (self.changes[:n] for n in range(len(self.changes)))
        made = itertools.product([False, True], repeat=len(self.changes))
        return (itertools.compress(self.changes, m) for m in made)
