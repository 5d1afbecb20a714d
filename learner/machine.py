"""What this machine has for several processes that train, as JSON; for `hone doctor`, which itself imports no torch.

python -m learner.machine
"""

from __future__ import annotations

import json
import sys

import torch
from torch import distributed

if __name__ == "__main__":
    is_there = distributed.is_available()
    found = {
        "gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "gloo": is_there and distributed.is_gloo_available(),
        "nccl": is_there and distributed.is_nccl_available(),
    }
    sys.stdout.write(json.dumps(found) + "\n")
