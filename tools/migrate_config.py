#!/usr/bin/env python3
"""Rewrites the backbone of a config to this project's: from mmpretrain's SwinTransformerV2, timm's, or a Swin V1.

    python tools/migrate_config.py my_swin_config.py my_swinv2_config.py

DST has SRC as its base and states the difference. What changes its meaning, or cannot be taken over, is printed, and
stands as comments in DST.
"""
from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmswinv2.core.arch import ARCHS, get_arch

RELEASED = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
# of each size: a released file, and the windows that it was pre-trained with
WEIGHTS = {
    'tiny': ('swinv2_tiny_patch4_window16_256.pth', [16, 16, 16, 8]),
    'small': ('swinv2_small_patch4_window16_256.pth', [16, 16, 16, 8]),
    'base': ('swinv2_base_patch4_window12_192_22k.pth', [12, 12, 12, 6]),
    'large': ('swinv2_large_patch4_window12_192_22k.pth', [12, 12, 12, 6]),
}
SHORT = dict(t='tiny', s='small', b='base', l='large', h='huge', g='giant')
TIMM = re.compile(r'swinv2_(tiny|small|base|large)_window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?')
SAME = ('in_channels', 'drop_path_rate', 'out_indices', 'with_cp', 'norm_eval', 'init_cfg')
SMALL_MAP = 'pad_small_map: a map that is no larger than the window is one window here, and not padded'
KINDS = dict(SwinTransformerV2='mmpretrain', TIMMBackbone='timm', SwinTransformer='v1', SwinTransformerV1='v1')


@dataclass
class Migration:
    """A backbone of ours, and what a reader must know of it.

    Args:
        backbone: Its config.
        notes: What has another meaning now, or has to be chosen.
        lost: What could not be taken over.
    """

    backbone: dict
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Reads the command line; returns the exit code: 1 if something could not be taken over, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', type=Path, help='a config with model.backbone; it is not changed')
    parser.add_argument('dst', metavar='DST', type=Path, help='the config to write; it must not be there')
    args = parser.parse_args(argv)
    try:
        if args.dst.exists():
            raise ValueError(f'DST must not be there yet, got {args.dst}')
        cfg = Config.fromfile(args.src, import_custom_modules=False)
        backbone = cfg.get('model', {}).get('backbone')
        if not isinstance(backbone, Mapping):
            raise ValueError(f'SRC must have a model.backbone, got {args.src}')
        result = migrate(backbone.to_dict())
        args.dst.parent.mkdir(parents=True, exist_ok=True)
        args.dst.write_text(text(args.src, args.dst, cfg, result))
    except (ValueError, OSError) as e:
        print(f'migrate_config: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    for what, lines in (('note', result.notes), ('not taken over', result.lost)):
        for line in lines:
            print(f'{what}: {line}')
    print(f'wrote {args.dst}')
    return int(bool(result.lost))


def migrate(backbone: dict) -> Migration:
    """Rewrites a backbone.

    Raises:
        ValueError: if it is of no type that is known.
    """
    kind = str(backbone.get('type')).rpartition('.')[2]
    if kind not in KINDS or str(backbone.get('type')).startswith('mmswinv2.'):
        raise ValueError('model.backbone.type must be SwinTransformerV2 of mmpretrain, TIMMBackbone or '
                         f'SwinTransformer, got {backbone.get("type")!r}')
    given = {k: v for k, v in backbone.items() if k not in ('type', '_delete_')}
    return dict(mmpretrain=from_mmpretrain, timm=from_timm, v1=from_v1)[KINDS[kind]](given)


def take(given: dict, result: Migration, names: tuple[str, ...]) -> None:
    """Moves what is the same in both."""
    for name in names:
        if name in given:
            result.backbone[name] = given.pop(name)


def refuse(given: dict, result: Migration, **defaults) -> None:
    """Moves away what this backbone has no place for; it is lost where it is not the default."""
    for name, default in defaults.items():
        if name in given and given.pop(name) not in (default, None):
            result.lost.append(f'{name}: there is no such option')


def rest(given: dict, result: Migration) -> Migration:
    """What no rule knows is lost."""
    result.lost += [f'{name}={value!r}: not known' for name, value in given.items()]
    return result


def from_mmpretrain(given: dict) -> Migration:
    """mmpretrain's SwinTransformerV2."""
    arch = given.pop('arch', 'tiny')
    result = Migration(dict(arch=arch))
    if isinstance(arch, str):
        name = SHORT.get(arch.lower(), arch.lower())
        result.backbone['arch'] = 'g' if name == 'giant' else name
        if name == 'giant':
            result.notes.append("arch: 'giant' of mmpretrain is 'g' here, the paper's 3.0B; 'simmim_giant' is another")
        if name == 'huge':
            heads = dict(ARCHS['huge'], num_heads=[8, 16, 32, 64])
            result.backbone['arch'] = {k: list(v) if isinstance(v, tuple) else v for k, v in heads.items()}
            result.notes.append("arch: mmpretrain's huge has 8, 16, 32, 64 heads; the authors' 11, 22, 44, 88 are "
                                "arch='huge'")
    stages = len(get_arch(result.backbone['arch']).depths)
    windows = given.pop('window_size', 8)
    result.backbone['window_size'] = windows if isinstance(windows, int) else list(windows)
    windows = [windows] * stages if isinstance(windows, int) else list(windows)
    before = list(given.pop('pretrained_window_sizes', [0] * stages))
    if any(before):
        result.backbone['pretrained_window_sizes'] = [b or w for b, w in zip(before, windows)]
    result.backbone.setdefault('out_indices', given.pop('out_indices', (3,)))
    result.backbone['drop_path_rate'] = given.pop('drop_path_rate', .1)
    if given.get('frozen_stages', -1) >= 0:
        result.backbone['frozen_stages'] = given['frozen_stages'] + 1
        result.notes.append(f'frozen_stages: {given["frozen_stages"]} there, which freezes one stage more, is '
                            f'{given["frozen_stages"] + 1} here; a stage here has the merging after it, there before')
    given.pop('frozen_stages', None)
    if given.pop('drop_rate', 0.):
        result.lost.append('drop_rate: there it is of the embedding alone, here of projections and MLPs too')
    if given.pop('pad_small_map', False):
        result.notes.append(SMALL_MAP)
    given.pop('img_size', None), given.pop('interpolate_mode', None)  # any size; of embeddings that are refused
    norm = given.pop('norm_cfg', dict(type='LN'))
    if norm is None or norm.get('type') != 'LN' or norm.get('eps', 1e-5) != 1e-5:
        result.lost.append(f'norm_cfg={norm!r}: norms are LayerNorms with an eps of 1e-5')
    take(given, result, SAME)
    refuse(given, result, patch_size=4, use_abs_pos_embed=False, stage_cfgs={}, patch_cfg={})
    return rest(given, result)


def from_timm(given: dict) -> Migration:
    """timm's ``swinv2_*`` in mmpretrain's TIMMBackbone.

    Raises:
        ValueError: if it is another model.
    """
    name = given.pop('model_name', '')
    match = TIMM.match(name)
    if match is None:
        raise ValueError('model.backbone.model_name must be swinv2_SIZE_windowN_PIXELS (swinv2_cr_* is another model), '
                         f'got {name!r}')
    before, after, old, pixels = (int(match[i] or match[j]) for i, j in ((2, 2), (3, 2), (4, 4), (5, 4)))

    def per_stage(window: int, image: int) -> list[int]:
        return [min(window, image // (4 * 2**i)) for i in range(4)]
    result = Migration(dict(arch=match[1], window_size=per_stage(after, pixels),
                            pretrained_window_sizes=per_stage(before, old)))
    features = given.pop('features_only', False)
    result.backbone['out_indices'] = given.pop('out_indices', (0, 1, 2, 3) if features else (3,))
    if features:
        result.notes.append('outputs have a norm each; those of timm have none')
    if given.pop('pretrained', False):
        result.notes.append("pretrained=True: name a file, init_cfg=dict(type='Pretrained', checkpoint=...); timm's "
                            'are read as they are')
    if given.get('checkpoint_path'):
        result.backbone['init_cfg'] = dict(type='Pretrained', checkpoint=given['checkpoint_path'])
    given.pop('checkpoint_path', None)
    take(given, result, SAME)
    return rest(given, result)


def from_v1(given: dict) -> Migration:
    """Swin V1 of mmdet, mmseg or mmpretrain: another model, of the same size."""
    arch = given.pop('arch', None)
    if arch is None:
        arch = dict(embed_dims=given.pop('embed_dims', 96), depths=list(given.pop('depths', (2, 2, 6, 2))),
                    num_heads=list(given.pop('num_heads', (3, 6, 12, 24))))
    elif isinstance(arch, str):
        arch = SHORT.get(arch.lower(), arch.lower())
    checked = get_arch(arch)
    name = next((known for known, sizes in ARCHS.items() if get_arch(sizes) == checked), None)
    result = Migration(dict(arch=name or arch))
    old = given.pop('window_size', 7)
    file, windows = WEIGHTS.get(name, (None, None))
    result.backbone['window_size'] = old
    if file is not None:
        result.backbone.update(window_size=windows, pretrained_window_sizes=windows,
                               init_cfg=dict(type='Pretrained', checkpoint=RELEASED + file))
        result.notes.append(f'window_size: {old} there; {windows} here, that of the weights. Any other extrapolates: '
                            'pretrained_window_sizes stay')
    for key in ('init_cfg', 'pretrained'):
        if given.pop(key, None):
            result.notes.append(f'{key}: weights of Swin V1 are for another attention and are left out'
                                f'{"; released ones of V2 are named" if file else ""}')
    result.backbone['drop_path_rate'] = given.pop('drop_path_rate', .1)
    take(given, result, ('frozen_stages', 'qkv_bias', 'mlp_ratio', 'drop_rate', 'attn_drop_rate', *SAME[:-1]))
    given.pop('pretrain_img_size', None), given.pop('img_size', None), given.pop('convert_weights', None)
    given.pop('qk_scale', None)  # the scale is learnt
    norm = given.pop('norm_cfg', dict(type='LN'))
    if norm.get('type') != 'LN':
        result.lost.append(f'norm_cfg={norm!r}: norms are LayerNorms')
    refuse(given, result, patch_size=4, strides=(4, 2, 2, 2), patch_norm=True, use_abs_pos_embed=False,
           act_cfg=dict(type='GELU'))
    if given.pop('pad_small_map', False):
        result.notes.append(SMALL_MAP)
    return rest(given, result)


def text(src: Path, dst: Path, cfg: Config, result: Migration) -> str:
    """The config that is written."""
    comments = [f'# Note: {line}' for line in result.notes] + [f'# Not taken over: {line}' for line in result.lost]
    backbone = dict(type='mmswinv2.SwinTransformerV2', **result.backbone)
    lines = [f'    {key}={value!r},' for key, value in backbone.items()]
    custom = cfg.get('custom_imports') or {}
    imports, failing = list(custom.get('imports', [])), bool(custom.get('allow_failed_imports'))
    imports += [name for name in ('mmswinv2', 'mmswinv2.engine.setup') if name not in imports]
    base = os.path.relpath(src.absolute(), dst.absolute().parent)
    return '\n'.join([
        f'# {src.name} with SwinV2, written by tools/migrate_config.py.', *comments, f'_base_ = {base!r}', '',
        f'custom_imports = dict(imports={imports!r}, allow_failed_imports={failing})',
        "default_hooks = dict(convert_checkpoint=dict(type='mmswinv2.ConvertCheckpointHook'))",
        'model = dict(backbone=dict(', '    _delete_=True,', *lines, '))', ''])


if __name__ == '__main__':
    sys.exit(main())
