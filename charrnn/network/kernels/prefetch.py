"""A hint to the processor's cache."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LINE = 16  # elements of float32 in a cache line


@intrinsic
def prefetch(typing_context, array, at):
    """Bring the line of element `at` of a contiguous array into the cache, to be written soon."""
    if not array.is_c_contig:
        return None
    signature = types.void(array, types.intp)

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        name, module = "llvm.prefetch.p0i8", builder.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), name
        )
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(function, [address, number(1), number(3), number(1)])  # write, all levels
        return context.get_dummy_value()

    return signature, generate
