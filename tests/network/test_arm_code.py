"""The microkernel's machine code for 64-bit ARM, which LLVM writes on any processor."""

import re

import llvmlite.binding as llvm
import pytest
from numba import types

from charrnn.network.jit import jit
from charrnn.network.kernels import microkernel
from charrnn.network.kernels.microkernel import MR, multiply_tile

CPUS = {
    "apple-m1": "arm64-apple-darwin",
    "neoverse-v1": "aarch64-linux-gnu",
    "cortex-a72": "aarch64-linux-gnu",
}
FLOATS, N = types.CPointer(types.float32), types.intp
SIGNATURE = (N, N, FLOATS, N, N, N, FLOATS, N, N, FLOATS, N, N, N)


def compiled_for_arm(monkeypatch):
    """LLVM's code of all tiles, as on ARM, before it is translated for a processor."""
    monkeypatch.setattr(microkernel, "VECTOR_BYTES", 16)
    monkeypatch.setattr(microkernel, "PANELS", microkernel._panels(16, registers=32))

    def tile(rows, panels, a, a_at, a_row, a_col, b, b_at, b_panel, c, c_at, c_row, depth):
        multiply_tile(
            rows, panels, a, a_at, a_row, a_col, b, b_at, b_panel, c, c_at, c_row, depth
        )  # fmt: skip

    function = jit(tile)
    function.compile(SIGNATURE)
    return function.inspect_llvm(SIGNATURE)


def assembly(code, cpu):
    """The machine code as text."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(re.sub("^target .*$", "", code, flags=re.MULTILINE))
    module.triple = CPUS[cpu]
    machine = llvm.Target.from_triple(CPUS[cpu]).create_target_machine(cpu=cpu, opt=3)
    module.data_layout = str(machine.target_data)
    return machine.emit_assembly(module)


def loops(text):
    """The instructions of each innermost loop that multiplies, as lists of lines."""
    found, label, lines = [], None, []
    for line in map(str.strip, text.splitlines()):
        if match := re.match(r"([.\w]+):", line):
            label, lines = match[1], []
        elif line and line[0] not in ".;/":
            lines.append(line)
            if line.startswith("b.") and line.split()[1] == label and "fmla" in " ".join(lines):
                found.append(lines)
                lines = []
    return found


def count(lines, pattern):
    return sum(bool(re.match(pattern, line)) for line in lines)


def num_sums(lines):
    return len({line.split()[1] for line in lines if line.startswith("fmla")})


def test_panels_fill_the_registers():
    assert microkernel._panels(16, 32) == (2, 2, 1, 1, 1, 1)
    assert microkernel._panels(32, 16) == (2, 2, 1, 1, 1, 1)
    assert microkernel._panels(64, 32) == (4, 4, 4, 4, 4, 4)


def test_loops_on_arm_keep_all_sums_in_registers(monkeypatch):
    monkeypatch.setattr(microkernel, "IS_ARM", True)
    code = compiled_for_arm(monkeypatch)
    for cpu in CPUS:
        tiles = loops(assembly(code, cpu))
        assert {4 * rows for rows in range(1, MR + 1)} <= {num_sums(lines) for lines in tiles}
        for lines in tiles:
            assert count(lines, r"st|.*\bsp\b") == 0, f"{cpu}: it spills\n" + "\n".join(lines)
        (largest,) = (lines for lines in tiles if num_sums(lines) == 24)
        loads = {kind: count(largest, kind) for kind in (r"ldr\s+s", r"ldp\s+q", "ld")}
        assert loads == {r"ldr\s+s": 6, r"ldp\s+q": 2, "ld": 8}, cpu
        assert count(largest, "fmla") == 24 and len(largest) <= 36, cpu


@pytest.mark.slow
def test_rows_of_known_distance_would_share_a_pointer(monkeypatch):
    """The test before this one is able to fail: `_opaque` is needed."""
    monkeypatch.setattr(microkernel, "IS_ARM", False)
    tiles = loops(assembly(compiled_for_arm(monkeypatch), "neoverse-v1"))
    (largest,) = (lines for lines in tiles if num_sums(lines) == 24)
    assert count(largest, "ld1r") == 6
