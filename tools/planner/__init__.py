"""The memory of a training step, counted on the meta device, where tensors have sizes and no memory.

:mod:`.counting` runs the backbone, :mod:`.heads` neck and heads, and :mod:`.steps` adds what a strategy of
:mod:`.sharding` divides. :mod:`.meta` is what the meta device lacks.
"""
