"""What older versions of torch cannot do: tests of it are skipped there, with the reason."""
import pytest
import torch


def needs_torch(version, reason):
    """A mark that skips a test under torch before ``version``, such as (2, 4)."""
    return pytest.mark.skipif(torch.__version__ < version, reason=f'torch {torch.__version__}: {reason}')
