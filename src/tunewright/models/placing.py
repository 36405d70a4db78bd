"""Small host tensors on their way to where they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


def placed(host: Tensor, device: torch.device | str) -> Tensor:
    """``host`` on ``device``; a GPU of CUDA is not waited for, as the copy leaves from pinned memory.

    Elsewhere the copy is finished before anything else happens: Metal may read a tensor that is freed by
    then.
    """
    there = torch.device(device)
    if there.type != "cuda" or not torch.cuda.is_available():
        return host.to(there)
    return host.pin_memory().to(there, non_blocking=True)
