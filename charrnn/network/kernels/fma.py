"""The fused multiply-add, a * b + c with one rounding."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c of floats of one type, rounded once.

    On x86 processors without the FMA instruction (before AVX2) it is rounded twice.
    """
    if not a == b == c or not isinstance(a, types.Float):
        return None  # Numba then raises a typing error

    def generate(context, builder, signature, args):
        return builder.call(fma_function(builder.module, args[0].type), args)

    return a(a, b, c), generate


def fma_function(module, kind):
    """LLVM's function a * b + c of a float type or a vector of one.

    `fmuladd` is one instruction wherever there is one; `fma` would call a slow function elsewhere.
    """
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    bits = 64 if scalar == ir.DoubleType() else 32
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    name = f"llvm.fmuladd.{lanes}f{bits}"
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * 3), name)
