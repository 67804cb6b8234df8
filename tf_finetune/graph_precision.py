"""Whether graphs may be computed in bfloat16, and on which processors that is done.

One idea: oneDNN computes convolutions and products in bfloat16 where TensorFlow rewrites a graph
so; variables stay float32. A function is rewritten, or not, by the options of the thread that calls
it, and both of its versions are kept.

Reference: tensorflow/core/grappler/optimizers/auto_mixed_precision.cc (the lists of operations
that are computed in half precision, and of those that never are).
"""

import contextlib
from collections.abc import Iterator

from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context


@contextlib.contextmanager
def rounding(*, is_on: bool) -> Iterator[None]:
    """Lets the functions that this thread calls in the block compute in bfloat16.

    Not by `tf.config.optimizer.set_experimental_options`, which are options of the process: other
    threads would take them over.

    Args:
      is_on: False: nothing is changed.

    Yields:
      None.
    """
    if not is_on:
        yield
        return
    own = context.context()
    before = own.function_call_options
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    rewrites = config.graph_options.rewrite_options
    rewrites.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    own.function_call_options = context.FunctionCallOptions(config_proto=config)
    try:
        yield
    finally:
        own.function_call_options = before


def has_bfloat16() -> bool:
    """Whether this machine's processor computes in bfloat16.

    Returns:
      True on Linux on x86 with AVX-512 BF16 or AMX; False where it is not known.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(line.split())
    except OSError:
        return False
    return False
