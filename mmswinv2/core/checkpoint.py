"""State dicts of checkpoints: from a file's contents to the backbone's own names, as pure functions.

The backbone's names are those of the Microsoft release, so that its classifiers load as they are: what they carry
besides (derived buffers, the head) is dropped by name, and their last norm is the norm of the last output.

Source:
    microsoft/Swin-Transformer, ``utils.py``, ``load_pretrained`` (which keys are derived).
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

DERIVED = re.compile(r'(^|\.)(relative_coords_table|relative_position_index|attn_mask)$')
CLASSIFIER = re.compile(r'^head\.')
OUTPUT_NORM = re.compile(r'^norm(\d)\.(weight|bias)$')


def state_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights in what a file holds: under ``state_dict`` (OpenMMLab), ``model`` (Microsoft), or as they are.

    Raises:
        ValueError: if there are none.
    """
    state = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            state = checkpoint[key]
            break
    if not isinstance(state, Mapping) or not state or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError('checkpoint must hold a state dict of tensors, as it is or under state_dict or model')
    return {k.removeprefix('module.'): v for k, v in state.items()}


def read_backbone_state(checkpoint: Mapping, *, num_stages: int = 4, prefix: str | None = None) -> dict[str, Tensor]:
    """Reads the weights of a backbone in the backbone's own names.

    Args:
        checkpoint: What a file holds; it is not changed.
        num_stages: Stages of the backbone: a classifier's ``norm`` becomes the norm of the last one.
        prefix: Where the backbone is in the file, such as ``'backbone.'``. None: under ``backbone.`` if the file
            has such names, else at the root.

    Returns:
        A new dict; the tensors are those of ``checkpoint``.

    Raises:
        ValueError: if the file holds no weights, or none under ``prefix``.
    """
    state = state_of(checkpoint)
    if prefix is None:
        prefix = 'backbone.' if any(k.startswith('backbone.') for k in state) else ''
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    state = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    if not state:
        raise ValueError(f'prefix must be one that names in the checkpoint begin with, got {prefix!r}')
    state = {k: v for k, v in state.items() if not DERIVED.search(k) and not CLASSIFIER.match(k)}
    for part in ('weight', 'bias'):
        if f'norm.{part}' in state:
            state[f'norm{num_stages - 1}.{part}'] = state.pop(f'norm.{part}')
    return state


def load_backbone(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Loads weights into a backbone, strictly: only norms of outputs may be missing (they stay as constructed) or
    unused.

    Args:
        net: A :class:`mmswinv2.core.SwinTransformerV2`.
        state: Weights in its names.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: if a weight is missing, is not the backbone's or has another shape, or if the pre-training
            windows are contradictory or unknown.
    """
    own = net.state_dict()
    missing = [k for k in own if k not in state and not OUTPUT_NORM.match(k)]
    if net.pretrained_window_key in missing and net.pretrained_window_given:
        missing.remove(net.pretrained_window_key)
    unexpected = [k for k in state if k not in own and not OUTPUT_NORM.match(k)]
    shapes = [f'{k} {tuple(own[k].shape)}, got {tuple(v.shape)}' for k, v in state.items()
              if k in own and own[k].shape != v.shape]
    problems = [f'{what}: {len(keys)} ({_first(keys)})' for what, keys in (
        ('missing', missing), ('not in the backbone', unexpected), ('of another shape', shapes)) if keys]
    if problems:
        hint = ''
        if net.pretrained_window_key in missing:
            hint = ('; the file does not say which windows it was pre-trained with: '
                    'set pretrained_window_sizes in the config of the backbone')
        raise ValueError(f'checkpoint must hold each weight of the backbone and no other; {"; ".join(problems)}{hint}')
    result = net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    fresh = [k for k in result.missing_keys if OUTPUT_NORM.match(k)]
    unused = [k for k in state if k not in own]
    text = f'{sum(k in own for k in state)} entries'
    if fresh:
        text += f'; not in the file and left as initialised: {_first(fresh)}'
    if unused:
        text += f'; of outputs that are not used: {_first(unused)}'
    return text


def _first(keys: Sequence[str], count: int = 5) -> str:
    return ', '.join(keys[:count]) + (', ...' if len(keys) > count else '')
