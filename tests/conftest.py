"""What must be decided before anything is imported.

Triton kernels run compiled where there is a GPU (`-m gpu`) and in Triton's interpreter where there is none. Tables are
printed for a wide terminal, whoever runs the tests.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["COLUMNS"] = "200"
