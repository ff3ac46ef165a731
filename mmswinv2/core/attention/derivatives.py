"""Which derivatives an operator of attention has: the first, in reverse mode."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from .backends import Problem

NO_FORWARD_MODE = 'it has no forward-mode derivative (jvp, jacfwd, dual numbers)'
NO_SECOND = 'it has no second derivative'


def refuses_derivative(problem: Problem) -> str | None:
    """Why an operator that has only first derivatives in reverse mode refuses a problem, or None."""
    if forward_ad._current_level >= 0:
        return NO_FORWARD_MODE
    functorch = torch._C._functorch
    # torch 2.1 does not say its levels; there the derivative itself refuses
    if torch._C._are_functorch_transforms_active() and hasattr(functorch, 'get_interpreter_stack'):
        kinds = [level.key() for level in functorch.get_interpreter_stack()]
        transform = functorch.TransformType
        if transform.Jvp in kinds:
            return NO_FORWARD_MODE
        if kinds.count(transform.Grad) > 1:
            return NO_SECOND
    return None
