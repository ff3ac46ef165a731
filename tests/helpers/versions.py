"""What torch cannot do before 2.4: tests of it are skipped there, with the reason. Each was seen with torch 2.1.2."""
import pytest
import torch


def needs_torch_2_4(reason):
    """A mark that skips a test under older ones; ``reason`` is what those cannot do."""
    return pytest.mark.skipif(torch.__version__ < (2, 4), reason=f'torch {torch.__version__}: {reason}')


half_under_autocast = pytest.param(torch.float16, marks=needs_torch_2_4('no float16 under autocast on a CPU'))
