"""The ranks that mpirun or srun has started. No other module knows of MPI."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .ranks import ONE_RANK, Ranks, Value

# Where launchers put the number of ranks: Open MPI; MPICH, Intel MPI and srun; MVAPICH.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def connect(distributed: str = "auto") -> Ranks:
    """Join the other ranks: with `mpi` always, with `auto` if a launcher has started several.

    Raises UsageError without mpi4py, without an MPI library, and for the wrong one.
    """
    launched = num_launched(os.environ)
    if distributed == "none" or (distributed == "auto" and launched == 1):
        return ONE_RANK
    ranks = MpiRanks()
    if launched > 1 == ranks.size:
        raise UsageError(
            f"{launched} processes were started, but the MPI library of mpi4py sees one: start "
            f"them with the mpirun of {ranks.library}, or give --distributed none."
        )
    return ranks if ranks.size > 1 else ONE_RANK


def num_launched(environment: Mapping[str, str]) -> int:
    """The number of ranks that a launcher has started, by its variables; 1: no launcher."""
    sizes = [environment.get(name, "") for name in SIZE_VARIABLES]
    return max([1, *(int(size) for size in sizes if size.isdecimal())])


class MpiRanks(Ranks):
    """All processes of MPI. Data is only moved by MPI and added here, so the order is known."""

    def __init__(self) -> None:
        self._mpi = _library()
        self._world = self._mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()

    @property
    def library(self) -> str:
        """The name of the MPI library and its version."""
        name, version = self._mpi.get_vendor()
        return f"{name} {'.'.join(map(str, version))}"

    def broadcast(self, value: Any) -> Any:
        return self._world.bcast(value)

    def gather(self, value: Value) -> list[Value]:
        values: list[Value] = self._world.allgather(value)
        return values

    def sum_(self, array: npt.NDArray[np.float32]) -> None:
        bounds = np.linspace(0, array.size, self.size + 1).astype(int)
        counts, starts = np.diff(bounds), bounds[:-1]
        own = slice(bounds[self.rank], bounds[self.rank + 1])
        parts = np.empty((self.size, counts[self.rank]), array.dtype)
        equal = np.full(self.size, counts[self.rank]), np.arange(self.size) * counts[self.rank]
        self._world.Alltoallv([array, (counts, starts)], [parts, equal])
        for part in parts[1:]:
            parts[0] += part
        array[own] = parts[0]
        self._world.Allgatherv(parts[0], [array, (counts, starts)])

    def abort_at_exit(self) -> None:
        atexit.register(self._world.Abort, 1)


def _library() -> Any:
    try:
        import mpi4py
    except ModuleNotFoundError:
        raise UsageError(
            "training with several processes needs mpi4py: run `pip install 'charrnn[mpi]'`, or "
            "give --distributed none."
        ) from None
    mpi4py.rc.thread_level = "serialized"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"mpi4py finds no MPI library ({' '.join(str(error).split())[:100]}): load the module "
            "of one, or run `pip install mpich`."
        ) from None
    return MPI
