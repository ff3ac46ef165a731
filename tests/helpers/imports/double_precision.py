"""Models and data in float64, to tell equality of runs from rounding. Imported by configs of tests alone."""
import torch

torch.set_default_dtype(torch.float64)
