"""State-dict layouts of other projects and this one's names for them: rules as data.

The backbone's names are those of the Microsoft release. A layout says which names of a file are dropped, and by which
rule, and how the others are renamed; what then is no name of a backbone is an error. Names are those below the prefix
under which the backbone is in the file.

Legend: C channels, nH heads; merging takes four tokens at (row, column) of a 2 x 2 patch.

Source (names only; all were read and, where a test or docs/checkpoints.md says so, run):
    microsoft/Swin-Transformer, ``models/swin_transformer_v2.py`` and ``utils_simmim.py``;
    SwinTransformer/AiT and Feature-Distillation (``rpe_mlp``, ``enorm``, ``rel_pos_bias``);
    huggingface/pytorch-image-models 1.0.31, ``swin_transformer_v2.py``; huggingface/transformers 5.23, ``swinv2``;
    pytorch/vision 0.28, ``models/swin_transformer.py``; open-mmlab/mmpretrain 1.2, ``swin_transformer_v2.py``.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

OWN = re.compile(
    r'patch_embed\.(proj|norm)\.(weight|bias)|'
    r'layers\.\d\.blocks\.\d+\.(norm[123]\.(weight|bias)|mlp\.fc[12]\.(weight|bias)|'
    r'attn\.(qkv\.weight|proj\.(weight|bias)|[qv]_bias|logit_scale|cpb_mlp\.(0\.weight|0\.bias|2\.weight)|'
    r'relative_position_bias_table))|'
    r'layers\.\d\.downsample\.(reduction\.weight|norm\.(weight|bias))|norm\d\.(weight|bias)|pretrained_window_sizes')
COORDS = re.compile(r'(layers\.(\d)\.(?:blocks\.\d+\.attn|rel_pos_bias)\.)relative_coords_table')

DERIVED = (r'.*\.(relative_coords_table|relative_position_index|attn_mask)', 'derived buffers')
HEAD = (r'head\.(fc\.)?(weight|bias)', 'classification head')
MASK_TOKEN = (r'mask_token', 'mask token of SimMIM')


def _earlier_downsample(match: re.Match) -> str:
    return f'layers.{int(match[1]) - 1}.downsample.'


def _torchvision_stage(match: re.Match) -> str:
    index = int(match[1]) - 1  # 0: stage 0, 1: the merging after it, 2: stage 1, ...
    return f'layers.{index // 2}.' + ('downsample.' if index % 2 else 'blocks.')


def _share_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives each block of a stage its own copy of the MLP of position bias that they share in the file."""
    shared = re.compile(r'layers\.(\d)\.rel_pos_bias\.(cpb_mlp\..*)')
    out = {}
    for name, value in state.items():
        match = shared.fullmatch(name)
        if match is None:
            out[name] = value
            continue
        for block in sorted({k.split('.')[3] for k in state if k.startswith(f'layers.{match[1]}.blocks.')}, key=int):
            out[f'layers.{match[1]}.blocks.{block}.attn.{match[2]}'] = value.clone()
    return out


def _join_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins the weights of separate query, key and value projections: three of (C, C) to one of (3C, C)."""
    out = {}
    for name, value in state.items():
        if name.endswith('.attn.query.weight'):
            stem = name.removesuffix('query.weight')
            parts = [state.get(f'{stem}{part}.weight') for part in ('query', 'key', 'value')]
            if any(p is None or p.shape != value.shape for p in parts):
                raise ValueError(f'checkpoint must hold query, key and value weights of one shape at {stem}')
            out[stem + 'qkv.weight'] = torch.cat(parts)
        elif not name.endswith(('.attn.key.weight', '.attn.value.weight')):
            out[name] = value
    return out


def _split_qkv_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Splits a bias of (3C,) into those of queries and values; the part of the keys is not used by that project."""
    out = {}
    for name, value in state.items():
        if name.endswith('.attn.qkv.bias'):
            q, _, v = value.chunk(3)
            stem = name.removesuffix('qkv.bias')
            out[stem + 'q_bias'], out[stem + 'v_bias'] = q.clone(), v.clone()
        else:
            out[name] = value
    return out


def _order_merging(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Orders the inputs of patch merging as the release does.

    ``nn.Unfold`` gives (channel, row, column); the release concatenates (0,0), (1,0), (0,1), (1,1) of all channels.
    """
    def order(value: Tensor) -> Tensor:
        channels = value.shape[-1] // 4
        value = value.unflatten(-1, (channels, 2, 2))  # (..., C, row, column)
        return value.movedim(-3, -1).transpose(-3, -2).flatten(-3).contiguous()  # (..., column, row, C)

    out = {}
    for name, value in state.items():
        norm_first = name.replace('norm.weight', 'reduction.weight').replace('norm.bias', 'reduction.weight')
        if name.endswith('.downsample.reduction.weight') or (
                '.downsample.norm.' in name and norm_first in state and value.shape[0] == state[norm_first].shape[1]):
            value = order(value)
        out[name] = value
    return out


@dataclass(frozen=True)
class Layout:
    """How a project names the weights of its SwinV2.

    Args:
        dropped: (pattern of whole names, name of the rule), for what is no weight of a backbone.
        renamed: (pattern, replacement), applied in turn wherever the pattern occurs.
        finish: What is left to do with the renamed tensors.
    """

    dropped: tuple[tuple[str, str], ...] = (DERIVED, HEAD)
    renamed: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = ()
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


LAYOUTS: dict[str, Layout] = {
    'mmswinv2': Layout(),
    'microsoft': Layout(),
    'simmim': Layout(
        dropped=(DERIVED, HEAD, MASK_TOKEN),
        renamed=((r'\brpe_mlp\b', 'cpb_mlp'), (r'\benorm\b', 'norm3')),
        finish=_share_bias),
    'timm': Layout(renamed=((r'^layers\.(\d)\.downsample\.', _earlier_downsample),)),
    'transformers': Layout(
        dropped=(DERIVED, (r'classifier\.(weight|bias)', HEAD[1]), (r'embeddings\.mask_token', MASK_TOKEN[1])),
        renamed=(
            (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
            (r'^embeddings\.norm\.', 'patch_embed.norm.'),
            (r'^encoder\.', ''),
            (r'\.attention\.self\.(query|value)\.bias$', lambda m: f'.attn.{m[1][0]}_bias'),
            (r'\.attention\.self\.', '.attn.'),
            (r'\.attention\.output\.dense\.', '.attn.proj.'),
            (r'\.continuous_position_bias_mlp\.', '.cpb_mlp.'),
            (r'\.layernorm_before\.', '.norm1.'),  # before the MLP, after attention
            (r'\.layernorm_after\.', '.norm2.'),
            (r'\.intermediate\.dense\.', '.mlp.fc1.'),
            (r'(\.blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
            (r'^layernorm\.', 'norm.'),
        ),
        finish=_join_qkv),
    'torchvision': Layout(
        renamed=(
            (r'^features\.0\.0\.', 'patch_embed.proj.'),
            (r'^features\.0\.2\.', 'patch_embed.norm.'),
            (r'^features\.(\d)\.', _torchvision_stage),
            (r'\.mlp\.0\.', '.mlp.fc1.'),
            (r'\.mlp\.3\.', '.mlp.fc2.'),
        ),
        finish=_split_qkv_bias),
    'mmpretrain': Layout(
        renamed=(
            (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
            (r'^stages\.(\d)\.downsample\.', _earlier_downsample),
            (r'^stages\.', 'layers.'),
            (r'\.attn\.w_msa\.', '.attn.'),
            (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
            (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
        ),
        finish=_order_merging),
}

ROOT = re.compile(r'(.*?)(patch_embed\.proj|patch_embed\.projection|embeddings\.patch_embeddings\.projection|'
                  r'features\.0\.0)\.weight')


def find_prefix(names: Iterable[str]) -> str:
    """Finds under which prefix a backbone is in a file, by its patch embedding.

    Raises:
        ValueError: if there is no patch embedding, or more than one.
    """
    names = list(names)
    found = [match[1] for match in map(ROOT.fullmatch, names) if match and (not match[1] or match[1][-1] == '.')]
    if not found:
        raise ValueError('checkpoint must hold a Swin Transformer V2 in a known layout '
                         f'({", ".join(LAYOUTS)}); it has no patch embedding among {len(names)} names '
                         f'({first(names)})')
    if len(found) > 1:
        raise ValueError(f'prefix must say which backbone of the checkpoint is meant, one of {found}')
    return found[0]


def detect_layout(names: Iterable[str], prefix: str = '') -> str:
    """Tells a layout from the names below the prefix; never from that of a file.

    Raises:
        ValueError: if the names are those of no known layout.
    """
    names = list(names)

    def any_name(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    if any_name(r'\.meta_mlp\.'):
        raise ValueError('checkpoint must not be of swinv2_cr (timm): its position bias and norms are others than '
                         'those of Swin Transformer V2')
    if not any_name(r'logit_scale$') and any_name(r'relative_position_bias_table$'):
        raise ValueError('checkpoint must be of Swin Transformer V2, got Swin V1: without logit_scale, its attention '
                         'is not the cosine attention of this backbone')
    if any_name(r'^embeddings\.patch_embeddings\.'):
        return 'transformers'
    if any_name(r'^features\.0\.0\.') and any_name(r'\.logit_scale$'):
        return 'torchvision'
    if any_name(r'^patch_embed\.projection\.') and any_name(r'^stages\.'):
        return 'mmpretrain'
    if not any_name(r'^layers\.\d\.blocks\.\d+\.'):
        raise ValueError(f'checkpoint must hold a Swin Transformer V2 in a known layout ({", ".join(LAYOUTS)}), '
                         f'got {len(names)} names ({first(names)})')
    if 'pretrained_window_sizes' in names:
        return 'mmswinv2'
    if re.search(r'(^|\.)encoder\.$', prefix) or any_name(r'\.(rpe_mlp|enorm)\.'):
        return 'simmim'
    if any_name(r'^layers\.1\.downsample\.') and not any_name(r'^layers\.0\.downsample\.'):
        return 'timm'
    return 'microsoft'


def first(names: Iterable[str], count: int = 5) -> str:
    """The first few of many names, for a message."""
    names = list(names)
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')
