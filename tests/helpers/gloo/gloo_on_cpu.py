"""Lets mmengine start several processes on a machine without a GPU: its launcher calls ``torch.cuda.set_device`` for
whatever backend (mmengine 0.10.7, dist/utils.py, ``_init_dist_pytorch``). Imported by configs of tests alone."""
import torch

if not torch.cuda.is_available():
    torch.cuda.set_device = lambda device: None
