"""float32 means float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products and convolutions keep their 24 bits on every device (no tf32), whatever the caller's settings,
    which are restored afterwards. Also a decorator.

    torch runs convolutions on CUDA in tf32, 11 bits, unless told otherwise.
    """
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
