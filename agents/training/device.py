"""The device of an agent."""

import torch

from agents import distributed
from textenv.arguments import checked_device


def find_device(device: str | torch.device) -> torch.device:
    """The device; "auto" is an accelerator if there is one. Of several processes, which meet here,
    each has an accelerator of its own (`agents.distributed`)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    found = checked_device(device)
    if distributed.process_count() == 1:
        return found
    return torch.device(distributed.join(str(found)))
