"""Models and data in float64, so that equality of runs can be told from rounding. Imported by configs of tests alone."""
import torch

torch.set_default_dtype(torch.float64)
