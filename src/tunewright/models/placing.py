"""What lies where: host tensors on their way to a device, and matrices on theirs to the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def placed(host: Tensor, device: torch.device | str) -> Tensor:
    """``host`` on ``device``; a GPU of CUDA is not waited for, as the copy leaves from pinned memory.

    Elsewhere the copy is finished before anything else happens: Metal may read a tensor that is freed by
    then.
    """
    there = torch.device(device)
    if there.type != "cuda" or not torch.cuda.is_available() or type(host) is not Tensor:
        return host.to(there)  # a tensor of another class may stand for one without data
    return host.pin_memory().to(there, non_blocking=True)


def decomposable(matrix: Tensor) -> Tensor:
    """``matrix`` where it can be decomposed: Metal has no routine for it, the CPU does it instead."""
    return matrix.cpu() if matrix.device.type == "mps" else matrix
