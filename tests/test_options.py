"""Options of the backbone that are almost right: refused by name, or taken for what they are."""
import numpy as np
import pytest
import torch

from helpers.backbones import SMALL
from mmswinv2.core import SwinTransformerV2, VideoSwinTransformerV2
from mmswinv2.core.attention import AttentionConfig
from mmswinv2.models import GlobalAttention
from mmswinv2.models import SwinTransformerV2 as Registered

pytestmark = pytest.mark.mmengine


def build(**options):
    with torch.device('meta'):
        return SwinTransformerV2(**{**dict(arch=SMALL, window_size=4, out_indices=(0, 1)), **options})


@pytest.mark.parametrize('value', ['False', 'no', 0, 1, None, np.bool_(True)])
@pytest.mark.parametrize('name', ['mask_padding', 'qkv_bias', 'norm_eval'])
def test_a_switch_is_a_bool(name, value):
    with pytest.raises(ValueError, match=f'{name} must be a bool, got {value!r}'):
        build(**{name: value})


@pytest.mark.parametrize('options, message', [
    (dict(window_size=b'44'), r"window_size must be an integer or a list with one entry per stage, got b'44'"),
    (dict(window_size=[b'44', 4]), r"window_size\[0\] must be an integer or \(h, w\) in tokens, got b'44'"),
    (dict(pretrained_window_sizes=bytearray(b'44')), 'pretrained_window_sizes must be an integer or a list'),
    (dict(with_cp=b''), "with_cp must be a bool or a list of bools, one per stage, got b''"),
    (dict(out_indices=b'\0\1'), 'out_indices must be increasing stage indices'),
    (dict(arch=dict(SMALL, depths=b'\2\2')), 'arch.depths must be one to four integers'),
    (dict(mlp_ratio=.01), r'mlp_ratio must give >= 1 hidden channels, got 0.01 for 8 channels'),
    (dict(mlp_ratio=float('nan')), 'mlp_ratio must be a finite number > 0, got nan'),
    (dict(mlp_ratio=float('inf')), 'mlp_ratio must be a finite number > 0, got inf'),
    (dict(mlp_ratio=10**400), 'mlp_ratio must be a finite number > 0, got 1000'),
    (dict(mlp_ratio='4'), "mlp_ratio must be a finite number > 0, got '4'"),
    (dict(mlp_ratio=True), 'mlp_ratio must be a finite number > 0, got True'),
    (dict(attn_budget_mib=10**30), 'attn_budget_mib must be an integer from 1 to 1099511627776 MiB or None, got 1000'),
    (dict(attn_budget_mib=True), 'attn_budget_mib must be an integer from 1 to .* or None, got True'),
    (dict(in_channels=3.), 'in_channels must be an integer >= 1, got 3.0'),
    (dict(drop_path_rate=np.float32(1)), r'drop_path_rate must be a probability in \[0, 1\), got '),
    (dict(drop_rate=float('nan')), r'drop_rate must be a probability in \[0, 1\), got nan'),
])
def test_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


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


@pytest.mark.parametrize('name', ['mask_padding', 'qkv_bias'])
def test_attention_checks_its_switches(name):
    with pytest.raises(ValueError, match=f"{name} must be a bool, got 'no'"):
        AttentionConfig(**{name: 'no'})


@pytest.mark.parametrize('options, message', [
    (dict(mlp_ratio=.01), 'mlp_ratio must give >= 1 hidden channels, got 0.01 for 8 channels'),
    (dict(mlp_ratio=float('nan')), 'mlp_ratio must be a finite number > 0, got nan'),
    (dict(with_cp='no'), "with_cp must be a bool, got 'no'"),
    (dict(num_heads='2'), "num_heads must be an integer >= 1, got '2'"),
    (dict(num_heads=0), 'num_heads must be an integer >= 1, got 0'),
])
def test_the_neck_checks_as_the_backbone_does(options, message):
    with pytest.raises(ValueError, match=message):
        GlobalAttention(8, **{**dict(num_heads=2), **options})


INHERITED = '; where a config inherits them from another backbone, _delete_=True in its backbone=dict(...) leaves ' \
    'them out'


@pytest.mark.parametrize('net, names, message', [
    (SwinTransformerV2, ['windw_size'], 'option windw_size (did you mean window_size?)'),
    (Registered, ['windw_size', 'autocast_dtyp'],
     'options windw_size (did you mean window_size?), autocast_dtyp (did you mean autocast_dtype?)'),
    (VideoSwinTransformerV2, ['temporal_patch'], 'option temporal_patch (did you mean temporal_patch_size?)'),
    (Registered, ['pretrain_img_size'],
     'option pretrain_img_size (did you mean pretrained_window_sizes?)' + INHERITED),
    (Registered, ['embed_dims', 'depths', 'num_heads', 'patch_size', 'qk_scale', 'use_abs_pos_embed', 'pretrained'],
     'options embed_dims (of arch=dict(...)), depths (of arch=dict(...)), num_heads (of arch=dict(...)), patch_size, '
     'qk_scale, use_abs_pos_embed, pretrained' + INHERITED),
    (Registered, ['depth', 'num_stages', 'norm_cfg', 'style'],
     'options depth, num_stages, norm_cfg, style' + INHERITED),
])
def test_unknown_options_are_all_named(net, names, message):
    with pytest.raises(TypeError) as error:
        net(SMALL, window_size=4, **dict.fromkeys(names))
    assert str(error.value) == f'{net.__name__} has no {message}'
