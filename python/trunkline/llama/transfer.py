"""Between host and device without either waiting for the other."""

from __future__ import annotations

import numpy as np
import torch


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """``values`` on the device, in the order of the current stream; they must not change any more."""
    host = torch.from_numpy(np.ascontiguousarray(values))
    # Pinned: the copy of pageable memory would hold the host up until the device is there.
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


class Arriving:
    """A tensor on its way to the host, from where the current stream stands."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)  # pinned when it comes from a device
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        if self._event is not None:
            self._event.record()

    def tolist(self) -> list[int]:
        """Waits until it is there."""
        if self._event is not None:
            self._event.synchronize()
        values: list[int] = self._host.tolist()
        return values
