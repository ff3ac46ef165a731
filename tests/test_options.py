"""Options of the backbone that are wrong, or almost right: refused by name, or taken for what they are."""
import numpy as np
import pytest
import torch

from helpers.backbones import SMALL
from mmswinv2.core import SwinTransformerV2, VideoSwinTransformerV2

pytestmark = pytest.mark.core


@pytest.mark.parametrize('value', ['False', 'no', 0, 1, None, np.bool_(True)])
@pytest.mark.parametrize('name', ['mask_padding', 'qkv_bias', 'norm_eval'])
def test_a_switch_is_a_bool(name, value):
    with pytest.raises(ValueError, match=f'{name} must be a bool, got {value!r}'):
        SwinTransformerV2(**{name: value})


@pytest.mark.parametrize('options, message', [
    (dict(arch='giant'), "arch must be 'simmim_giant' .*1.06B.*'g' for the paper's 3.0B"),
    (dict(arch='massive'), r"arch must be one of tiny, .*got 'massive'"),
    (dict(arch=3), 'arch must be a name or a dict, got 3'),
    (dict(arch=dict(embed_dims=8, depths=[2])), r"missing \['num_heads'\], unknown \[\]"),
    (dict(arch=dict(embed_dims=8, depths=[2], num_heads=[2], window=3)), r"unknown \['window'\]"),
    (dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2])), 'arch.num_heads must have one entry per stage'),
    (dict(arch=dict(embed_dims=8, depths=[2] * 5, num_heads=[2] * 5)), 'arch.depths must be one to four integers'),
    (dict(arch=dict(embed_dims=8, depths=[2], num_heads=[3])), 'arch.num_heads must divide .*8.*got 3'),
    (dict(window_size=1), 'window_size must be >= 2 tokens, got 1'),
    (dict(window_size=2**40), 'window_size must be <= 4096 tokens, got 1099511627776'),
    (dict(pretrained_window_sizes=[8, 8, (8, 4097), 8]), r'sizes\[2\] must be <= 4096 tokens, got \(8, 4097\)'),
    (dict(window_size=[8, 8, 8, (8, 1)]), r'window_size\[3\] must be >= 2 tokens, got \(8, 1\)'),
    (dict(window_size=[8, 8, 8]), 'window_size must have one entry per stage, 4 in all, got 3'),
    (dict(window_size=8.), 'window_size must be an integer or a list'),
    (dict(pretrained_window_sizes=[8, 8]), 'pretrained_window_sizes must have one entry per stage, 4 in all, got 2'),
    (dict(pretrained_window_sizes=[8, 8, 8, 0]), r'pretrained_window_sizes\[3\] must be >= 2 tokens, got 0'),
    (dict(out_indices=(-1, 2)), r'out_indices must be increasing .* 0 to 3, got \(-1, 2\)'),
    (dict(out_indices=(2, 1)), r'out_indices must be increasing .*got \(2, 1\)'),
    (dict(out_indices=(1, 1)), r'out_indices must be increasing .*got \(1, 1\)'),
    (dict(out_indices=(1, 4)), r'out_indices must be increasing .*got \(1, 4\)'),
    (dict(out_indices=()), r'out_indices must be increasing .*got \(\)'),
    (dict(attn_backend='magic'), "attn_backend must be one of auto, eager, cells, torch, triton, got 'magic'"),
    (dict(attn_budget_mib=0), 'attn_budget_mib must be an integer from 1 to 1099511627776 MiB or None, got 0'),
    (dict(window_fit='best'), "window_fit must be one of exact, balanced, got 'best'"),
    (dict(norm_placement='post'), "norm_placement must be one of res_post, pre, got 'post'"),
    (dict(position_bias='none'), "position_bias must be one of log_cpb.*got 'none'"),
    (dict(drop_path_rate=1.), r'drop_path_rate must be a probability in \[0, 1\), got 1.0'),
    (dict(drop_rate=-.1), r'drop_rate must be a probability in \[0, 1\), got -0.1'),
    (dict(attn_drop_rate='a'), r"attn_drop_rate must be a probability in \[0, 1\), got 'a'"),
    (dict(with_cp=[True]), 'with_cp must have one entry per stage, 4 in all, got 1'),
    (dict(with_cp='yes'), "with_cp must be a bool or a list of bools, one per stage, got 'yes'"),
    (dict(frozen_stages=5), 'frozen_stages must be an integer from -1 to 4, got 5'),
    (dict(in_channels=0), 'in_channels must be an integer >= 1, got 0'),
    (dict(mlp_ratio=0), 'mlp_ratio must be a finite number > 0, got 0'),
    (dict(window_size=b'44'), r"window_size must be an integer or a list with one entry per stage, got b'44'"),
    (dict(window_size=[b'44', 4, 4, 4]), r"window_size\[0\] must be an integer or \(h, w\) in tokens, got b'44'"),
    (dict(pretrained_window_sizes=bytearray(b'44')), 'pretrained_window_sizes must be an integer or a list'),
    (dict(with_cp=b''), "with_cp must be a bool or a list of bools, one per stage, got b''"),
    (dict(out_indices=b'\0\1'), 'out_indices must be increasing stage indices'),
    (dict(arch=dict(SMALL, depths=b'\2\2')), 'arch.depths must be one to four integers'),
    (dict(mlp_ratio=.01), 'mlp_ratio must give >= 1 hidden channels, got 0.01 for 96 channels'),
    (dict(mlp_ratio=float('nan')), 'mlp_ratio must be a finite number > 0, got nan'),
    (dict(mlp_ratio=float('inf')), 'mlp_ratio must be a finite number > 0, got inf'),
    (dict(mlp_ratio=10**400), 'mlp_ratio must be a finite number > 0, got 1000'),
    (dict(mlp_ratio='4'), "mlp_ratio must be a finite number > 0, got '4'"),
    (dict(mlp_ratio=True), 'mlp_ratio must be a finite number > 0, got True'),
    (dict(attn_budget_mib=10**30), 'attn_budget_mib must be an integer from 1 to 1099511627776 MiB or None, got 1000'),
    (dict(attn_budget_mib=True), 'attn_budget_mib must be an integer from 1 to .* or None, got True'),
    (dict(in_channels=3.), 'in_channels must be an integer >= 1, got 3.0'),
    (dict(drop_path_rate=np.float32(1)), r'drop_path_rate must be a probability in \[0, 1\), got '),
])
def test_bad_arguments_are_named(options, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        SwinTransformerV2(**options)


def test_numbers_of_numpy_are_numbers(rng):
    plain = dict(mlp_ratio=2, drop_path_rate=.25, attn_drop_rate=.5, drop_rate=.125, frozen_stages=1, in_channels=3,
                 attn_budget_mib=2, window_size=5)
    types = dict(mlp_ratio=np.int64, drop_path_rate=np.float32, attn_drop_rate=np.float16, drop_rate=np.float64,
                 frozen_stages=np.int8, in_channels=np.int64, attn_budget_mib=np.int64, window_size=np.int32)
    outs = []
    for options in (plain, {k: types[k](v) for k, v in plain.items()}):
        torch.manual_seed(1)
        net = SwinTransformerV2(SMALL, out_indices=(0, 1), **options)
        outs.append(net(torch.ones(1, 3, 48, 48)))
        assert str(net).count('rate=0.25') == 1
    assert all(torch.equal(a, b) for a, b in zip(*outs))


def test_the_largest_budget_is_usable():
    net = SwinTransformerV2(SMALL, window_size=4, out_indices=(0, 1), attn_budget_mib=2**40)
    assert all(o.isfinite().all() for o in net(torch.ones(1, 3, 40, 40)))


INHERITED = '; where a config inherits them from another backbone, _delete_=True in its backbone=dict(...) leaves ' \
    'them out'


@pytest.mark.parametrize('net, names, message', [
    (SwinTransformerV2, ['windw_size'], 'option windw_size (did you mean window_size?)'),
    ('registered', ['windw_size', 'autocast_dtyp'],
     'options windw_size (did you mean window_size?), autocast_dtyp (did you mean autocast_dtype?)'),
    (VideoSwinTransformerV2, ['temporal_patch'], 'option temporal_patch (did you mean temporal_patch_size?)'),
    (SwinTransformerV2, ['pretrain_img_size'],
     'option pretrain_img_size (did you mean pretrained_window_sizes?)' + INHERITED),
    (SwinTransformerV2,
     ['embed_dims', 'depths', 'num_heads', 'patch_size', 'qk_scale', 'use_abs_pos_embed', 'pretrained'],
     'options embed_dims (of arch=dict(...)), depths (of arch=dict(...)), num_heads (of arch=dict(...)), patch_size, '
     'qk_scale, use_abs_pos_embed, pretrained' + INHERITED),
    (SwinTransformerV2, ['depth', 'num_stages', 'norm_cfg', 'style'],
     'options depth, num_stages, norm_cfg, style' + INHERITED),
])
def test_unknown_options_are_all_named(net, names, message):
    if net == 'registered':
        pytest.importorskip('mmengine')
        from mmswinv2.models import SwinTransformerV2 as net
    with pytest.raises(TypeError) as error:
        net(SMALL, window_size=4, **dict.fromkeys(names))
    assert str(error.value) == f'{net.__name__} has no {message}'
