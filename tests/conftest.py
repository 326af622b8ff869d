"""Triton kernels run compiled where there is a GPU (`-m gpu`) and in Triton's interpreter where there is none.

That must be decided before anything imports Triton, and so here.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
