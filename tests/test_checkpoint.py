"""Layouts of other projects: read, compared by output, written again; what does not fit is refused."""
import copy
from functools import cache

import pytest
import torch

import reference
from helpers import peer_files
from helpers.backbones import DEEP, PLAIN, SMALL, backbone
from helpers.files import FILES
from mmswinv2.core import SwinTransformerV2, get_arch
from mmswinv2.core.weights import (
    adapt_in_channels,
    check_complete,
    config_of,
    detect_layout,
    inflate_state,
    load_backbone,
    read_backbone_state,
    read_file,
    to_layout,
    write_file,
)

pytestmark = pytest.mark.core


@cache
def example(deep, shared):
    """Images, weights, and the last map by the slow reference from the weights before they are written to a file."""
    arch = DEEP if deep else PLAIN
    x = torch.randn(1, 3, 52, 68, dtype=torch.float64)  # 13 x 17, 7 x 9, 4 x 5 tokens
    net = backbone(arch)
    if shared:  # one MLP of position bias per stage
        for stage in net.layers:
            for block in stage.blocks[1:]:
                block.attn.cpb_mlp.load_state_dict(stage.blocks[0].attn.cpb_mlp.state_dict())
    state, n = net.state_dict(), len(arch['depths'])
    out = reference.backbone(state, x, depths=arch['depths'], num_heads=arch['num_heads'], windows=[(4, 4)] * n,
                             pretrained=[(4, 4)] * n, out_indices=(n - 1,))[0]
    return x, state, out


ALL = {**FILES, 'simmim, shared bias': ('simmim', DEEP, lambda s, d: peer_files.simmim(s, d, shared=True))}


@pytest.mark.parametrize('file', sorted(ALL))
def test_each_layout_gives_the_same_output(file):
    """And its head or mask token is kept beside the backbone."""
    source, arch, write = ALL[file]
    x, state, expected = example(arch is DEEP, 'shared' in file)
    contents = write(state, arch['depths'])
    before = copy.deepcopy(contents)
    found = read_backbone_state(contents)
    assert found.source == source
    other = backbone(arch, seed=1)
    load_backbone(other, found)
    torch.testing.assert_close(other(x)[-1], expected, rtol=1e-10, atol=1e-10)
    assert config_of(found)['arch'] == (arch if 'extra_norm_every_n_blocks' in arch else PLAIN)
    assert_same(contents, before)
    extras = {f'head.{part}': value for part, value in peer_files.head(state).items()}
    if source in ('mmswinv2', 'simmim'):
        extras = dict(mask_token=peer_files.mask_token(state)) if file.startswith('simmim') else {}
    assert_same(found.extras, {} if file.endswith('without encoder') else extras)
    outside = found.dropped.get('outside of the backbone', [])
    assert not [name for name in outside if not name.startswith(('decoder.', 'neck.'))]
    mlps = [block.attn.cpb_mlp[0].weight for stage in other.layers for block in stage.blocks]
    assert len({p.data_ptr() for p in mlps}) == len(mlps)  # also where the file has one for a stage


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for k in a:
            assert_same(a[k], b[k])
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_merging_order_of_unfold(rng):
    """The hand-written file of mmpretrain is right: its weight applied to ``nn.Unfold`` is ours applied to a map."""
    net = backbone(PLAIN)
    merge = net.layers[0].downsample
    x = torch.randn(1, 6, 4, 8, generator=rng, dtype=torch.float64)
    unfolded = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    theirs = merge.norm(unfolded @ peer_files.unfold_order(merge.reduction.weight).T)
    torch.testing.assert_close(merge(x).flatten(1, 2), theirs, rtol=1e-12, atol=1e-12)


def test_unfold_order_of_norms_before_the_reduction(rng):
    net = backbone(PLAIN, norm_placement='pre')
    found = read_backbone_state(peer_files.mmpretrain(net.state_dict(), PLAIN['depths']))
    other = backbone(PLAIN, seed=1, norm_placement='pre')
    load_backbone(other, found)
    x = torch.randn(1, 3, 40, 40, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(other(x)[-1], net(x)[-1], rtol=1e-12, atol=1e-12)
    assert config_of(found)['norm_placement'] == 'pre'


@pytest.mark.parametrize('window, pretrained', [([8, 8, 4], [8, 8, 4]), ([16, 16, 8], [12, 12, 6]),
                                                ([24, 24, 12], [12, 12, 6])])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
def test_coordinates_in_a_file_say_the_windows(window, pretrained, dtype):
    state = backbone(PLAIN).state_dict()
    contents = peer_files.microsoft(state, PLAIN['depths'], window, pretrained)
    contents['model'] = {k: v.to(dtype) if v.is_floating_point() else v for k, v in contents['model'].items()}
    found = read_backbone_state(contents)
    assert found.window_sizes == tuple((w, w) for w in window)
    assert found.pretrained_window_sizes == tuple((p, p) for p in pretrained)
    assert found.position_bias == 'log_cpb'
    config = check_complete(found)
    assert config['window_size'] == [[w, w] for w in window]
    net = SwinTransformerV2(**config)  # the printed arguments are the right ones
    load_backbone(net, found)


def test_coordinates_that_contradict_the_config_are_an_error():
    contents = peer_files.microsoft(backbone(PLAIN).state_dict(), PLAIN['depths'], [16, 16, 8], [12, 12, 6])
    net = backbone(PLAIN, window_size=16, pretrained_window_sizes=[16, 16, 8])
    with pytest.raises(ValueError, match=r'pre-trained with, \[12, 12, 6\], got \[16, 16, 8\]'):
        load_backbone(net, read_backbone_state(contents))


def test_linear_coordinates_are_told_from_log_spaced_ones():
    contents = peer_files.microsoft(backbone(PLAIN).state_dict(), PLAIN['depths'])
    for i, j in peer_files.blocks(PLAIN['depths']):
        contents['model'][f'layers.{i}.blocks.{j}.attn.relative_coords_table'] = peer_files.coordinates(16, 12, False)
    found = read_backbone_state(contents)
    assert found.position_bias == 'linear_cpb' and found.pretrained_window_sizes == ((12, 12),) * 3
    with pytest.raises(ValueError, match="position_bias must be .* 'linear_cpb', got 'log_cpb'"):
        load_backbone(backbone(PLAIN, pretrained_window_sizes=12), found)
    load_backbone(backbone(PLAIN, pretrained_window_sizes=12, position_bias='linear_cpb'), found)


def test_buffers_for_microsoft():
    """As the release computes them: maps of 16, 8 and 4 tokens, windows of 8, 8 and 4 pre-trained at 6, 6 and 3."""
    state = backbone(PLAIN, pretrained_window_sizes=[6, 6, 3]).state_dict()
    out, _ = to_layout(read_backbone_state(dict(state)), 'microsoft', window_size=8, image_size=64)
    found = {k: v for k, v in out.items() if k.endswith('relative_coords_table')}
    assert [tuple(found[f'layers.{i}.blocks.0.attn.relative_coords_table'].shape) for i in range(3)] == [
        (1, 15, 15, 2), (1, 15, 15, 2), (1, 7, 7, 2)]
    torch.testing.assert_close(out['layers.2.blocks.1.attn.relative_coords_table'], peer_files.coordinates(4, 3))
    index = out['layers.2.blocks.0.attn.relative_position_index']
    assert index.shape == (16, 16) and index.dtype == torch.int64
    assert index[0, 0] == 24 and index[0, 1] == 23 and index[0, 4] == 17 and index[15, 0] == 48
    assert [k for k in out if k.endswith('attn_mask')] == ['layers.0.blocks.1.attn_mask']  # later maps are one window
    mask = out['layers.0.blocks.1.attn_mask']
    assert mask.shape == (4, 64, 64) and mask.unique().tolist() == [-100., 0.]
    assert not mask[0].any() and mask[1, 3, 4] == -100 and mask[1, 3, 2] == 0 and mask[3, 0, 63] == -100


def rename(old, new):
    return lambda s: {k.replace(old, new): v for k, v in s.items()}


@pytest.mark.parametrize('change, message', [
    (lambda s: {}, 'must hold a state dict of tensors'),
    (lambda s: dict(s, epoch=1), 'must hold a state dict of tensors'),
    (lambda s: {'conv1.weight': torch.zeros(1)}, 'no patch embedding among 1 names'),
    (rename('layers', 'stages'), r'in a known layout \(mmswinv2, .*\), got'),
    (rename('cpb_mlp', 'meta_mlp'), 'must not be of swinv2_cr'),
    (lambda s: {k.replace('cpb_mlp.2.weight', 'relative_position_bias_table'): v for k, v in s.items()
                if 'logit_scale' not in k}, 'got Swin V1'),
    (lambda s: dict(s, absolute_pos_embed=torch.zeros(1)), r'not known: 1 \(absolute_pos_embed\)'),
    (lambda s: {**s, **{f'ema.{k}': v for k, v in s.items()}}, r"which backbone .* one of \['', 'ema.'\]"),
    (lambda s: {k: v for k, v in s.items() if k != 'layers.1.blocks.0.mlp.fc2.bias'},
     r'missing: 1 \(layers.1.blocks.0.mlp.fc2.bias\)'),
    (lambda s: {k: v for k, v in s.items() if not k.startswith('layers.1.blocks')}, r'missing: layers.0.blocks'),
    (lambda s: {k: v for k, v in s.items() if 'blocks.0.attn.logit_scale' not in k}, 'missing: layers.0.blocks.0'),
    (lambda s: {**s, 'layers.0.downsample.reduction.weight': torch.zeros(3, 4)},
     r'of another shape: 1 \(layers.0.downsample.reduction.weight'),
])
def test_what_does_not_fit_is_an_error(change, message):
    contents = change(peer_files.microsoft(backbone(PLAIN).state_dict(), PLAIN['depths'])['model'])
    with pytest.raises(ValueError, match=message):
        check_complete(read_backbone_state(contents))


COORDS = 'layers.0.blocks.0.attn.relative_coords_table'
EMBEDDING = 'patch_embed.proj.weight'
WINDOWS = 'pretrained_window_sizes'


@pytest.mark.parametrize('name, value, message', [
    ('layers.0.blocks.0.attn.logit_scale', torch.tensor(1.), r'floating-point numbers along 3 axes, got .* shape \(\)'),
    (EMBEDDING, torch.ones(8, 3, 4, 4, dtype=torch.int64), 'numbers along 4 axes, got torch.int64'),
    ('patch_embed.proj.bias', torch.tensor(1.), 'numbers along 1 axes'),
    ('layers.0.downsample.reduction.weight', torch.ones(5), 'numbers along 2 axes'),
    ('layers.0.blocks.0.attn.qkv.weight', torch.ones(24, 8, dtype=torch.int64), 'floating-point .* got torch.int64'),
    ('norm0.weight', torch.ones(8, 1), 'numbers along 1 axes'),
    *((EMBEDDING, torch.ones(shape), r'must have the shape \(C, channels, h, w\) or ') for shape in (
        (), (8, 48), (8, 3, 1, 2, 4, 4))),
    (WINDOWS, torch.ones(3), r'integers, of shape \(stages, 2\), got torch.float32'),
    *((WINDOWS, torch.tensor(windows), message) for windows, message in (
        ([[4, 4], [4, 2**40], [4, 4]], r'\[1\] must be <= 4096 tokens, got \[4, 1099511627776\]'),
        ([[4, 4], [4, 4], [1, 4]], r'\[2\] must be >= 2 tokens, got \[1, 4\]'),
        ([[4, 4], [-4, 4], [4, 4]], r'\[1\] must be >= 2 tokens'),
        ([[4, 4]], 'one entry per stage, 3 in all, got 1'))),
    *((COORDS, torch.ones(shape), r'must have the shape \(1, 2h-1, 2w-1, 2\), got ') for shape in (
        (1, 8, 7, 2), (1, 7, 7), (1, 7, 2), (1, 7, 7, 7, 3), (2, 7, 7, 2), (1, 1, 7, 2))),
    *((COORDS, torch.ones(1, 7, 7, 2) * scale, 'must hold log-spaced or linear coordinates, got others') for scale in (
        1, 1000, 1e-30, float('nan'))),
    (COORDS, torch.ones(1, 1, 1, 1).expand(1, 2**20 + 1, 2**20 + 1, 2), 'must be of a window of at most 4096 tokens'),
])
def test_tensors_of_another_kind_are_an_error(name, value, message):
    with pytest.raises(ValueError, match=f'^{name}.*{message}'):
        read_backbone_state({**backbone(PLAIN).state_dict(), name: value})


@pytest.mark.parametrize('change, message', [
    (lambda s: s.update({f'module.{k}': v + 1 for k, v in list(s.items())}), 'with and without the prefix module.$'),
    (lambda s: s.update({f'_orig_mod.{k}': v for k, v in list(s.items())}), 'with and without the prefix _orig_mod.$'),
    (lambda s: s.update({'norm2.weight': s['norm.weight']}), 'once, got norm.weight and norm2.weight'),
    (lambda s: s.pop('norm.bias'), 'weight and bias of norm2, got one of them'),
    (lambda s: s.update({'norm.weight': s['norm.weight'].to_sparse()}), 'norm.weight must be a dense tensor'),
    (lambda s: s.update({'norm.weight': s['norm.weight'].to('meta')}), 'dense tensor of real numbers, got .* on meta'),
    (lambda s: s.update(pretrained_window_sizes=torch.full((3, 2), 7)), 'what the coordinates .* normalised by'),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith('layers.1.') and 'coords' in k],
     r'relative_coords_table must be there for all 3 stages or none, got stages \[0, 2\]'),
])
def test_what_contradicts_itself_is_an_error(change, message):
    state = peer_files.microsoft(backbone(PLAIN).state_dict(), PLAIN['depths'], [4] * 3, [4] * 3)['model']
    change(state)
    with pytest.raises(ValueError, match=message):
        read_backbone_state(state)


@pytest.mark.parametrize('layout, name, value', [
    ('torchvision', 'features.1.0.attn.qkv.bias', torch.tensor(1.)),
    ('mmpretrain', 'stages.1.downsample.reduction.weight', torch.ones(5)),
    ('transformers', 'swinv2.encoder.layers.0.blocks.0.attention.self.query.weight', torch.tensor(1.)),
])
def test_weights_of_other_shapes_in_other_layouts_are_an_error(layout, name, value):
    _, arch, write = FILES[layout]
    contents = write(backbone(arch).state_dict(), arch['depths'])
    state = contents.get('state_dict', contents.get('model', contents))
    key = next((k for k in state if k.endswith(name)), None)
    assert key is not None, list(state)[:20]
    state[key] = value
    with pytest.raises(ValueError):
        read_backbone_state(contents)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_linear_coordinates_in_half_precision_are_linear(dtype):
    from mmswinv2.core.position_bias import relative_coordinates
    from mmswinv2.core.pretrained_windows import solve_coordinates
    for window, pretrained in ((8, 12), (16, 16), (24, 12), (7, 7)):
        for log_spaced in (False, True):
            table = relative_coordinates((window,) * 2, (pretrained,) * 2, log_spaced=log_spaced, dtype=torch.float64)
            kind = 'log_cpb' if log_spaced else 'linear_cpb'
            assert solve_coordinates('x', table.to(dtype), (window,) * 2)[1] == kind


def test_a_gap_among_blocks_is_an_error():
    state = {k.replace('layers.2.blocks.1.', 'layers.2.blocks.99999.'): v
             for k, v in backbone(PLAIN).state_dict().items()}
    with pytest.raises(ValueError, match='must hold each weight of the backbone; missing: layers.2.blocks.1$'):
        check_complete(read_backbone_state(state))


def test_the_layout_can_be_said():
    contents = peer_files.timm(backbone(PLAIN).state_dict(), PLAIN['depths'])
    assert read_backbone_state(contents, source='timm').source == 'timm'
    with pytest.raises(ValueError, match='not known: .*layers.3.downsample|must hold each weight'):
        check_complete(read_backbone_state(contents, source='microsoft'))
    with pytest.raises(ValueError, match="source must be one of auto, mmswinv2, .*got 'jax'"):
        read_backbone_state(contents, source='jax')
    with pytest.raises(ValueError, match="source must be the layout of the checkpoint, got 'mmpretrain'"):
        read_backbone_state(contents, source='mmpretrain')


def test_which_backbone_can_be_said():
    state = backbone(SMALL, out_indices=(0, 1)).state_dict()
    both = {**{f'student.{k}': v for k, v in state.items()}, **{f'teacher.{k}': v + 1 for k, v in state.items()}}
    found = read_backbone_state(both, prefix='teacher')
    assert found.prefix == 'teacher.' and torch.equal(found.state['norm0.bias'], state['norm0.bias'] + 1)
    assert len(found.dropped['outside of the backbone']) == len(state)


def test_names_decide_not_the_file(tmp_path):
    state = backbone(PLAIN).state_dict()
    write_file(tmp_path / 'microsoft_timm.pth', peer_files.transformers(state, PLAIN['depths']))
    assert read_backbone_state(read_file(tmp_path / 'microsoft_timm.pth')).source == 'transformers'
    assert detect_layout(peer_files.timm(state, PLAIN['depths'])) == 'timm'


TABLE = 'layers.{}.blocks.0.attn.relative_position_bias_table'


def parameterized(seed=0, arch=PLAIN, **options):
    return backbone(arch, seed=seed, position_bias='parameterized', **options)


def without_windows(state):
    return {k: v for k, v in state.items() if k != WINDOWS}


def resized(table, old, new):
    """By torch's own resize of the (2W-1) x (2W-1) image of each head."""
    image = table.T.reshape(1, -1, *(2 * n - 1 for n in old))
    return torch.nn.functional.interpolate(image, size=[2 * n - 1 for n in new], mode='bicubic')[0].flatten(1).T


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_parameterised_table_is_resized_on_load(prefix):
    """Bicubic, as the paper's baseline."""
    windows = [(16, 16), (12, 12), (6, 10)]
    small = parameterized(window_size=8, pretrained_window_sizes=None)
    large = parameterized(window_size=windows, pretrained_window_sizes=8, seed=1)
    state = {prefix + k: v for k, v in small.state_dict().items()}
    before = copy.deepcopy(state)
    if prefix:  # through the reader
        load_backbone(large, read_backbone_state(dict(state_dict=state)))
    else:
        large.load_state_dict(state)  # torch's own, strictly
    assert_same(state, before)
    for stage, window in enumerate(windows):
        expected = resized(small.state_dict()[TABLE.format(stage)], (8, 8), window)
        torch.testing.assert_close(large.state_dict()[TABLE.format(stage)], expected, rtol=1e-12, atol=1e-12)
    same = parameterized(window_size=8, pretrained_window_sizes=8, seed=1)
    load_backbone(same, read_backbone_state(small.state_dict()))
    assert torch.equal(same.state_dict()[TABLE.format(0)], small.state_dict()[TABLE.format(0)])
    # what was resized once says where it came from, and is of another window than that
    again = parameterized(window_size=windows, pretrained_window_sizes=8)
    again.load_state_dict(large.state_dict())
    assert torch.equal(again.state_dict()[TABLE.format(2)], large.state_dict()[TABLE.format(2)])


def test_a_resized_table_keeps_its_shape():
    """A table that is a plane of its offsets stays that plane: nothing is transposed, mirrored or shifted."""
    offsets = torch.arange(-7., 8, dtype=torch.float64)
    plane = (offsets[:, None] + 100 * offsets[None, :]).flatten()[:, None].repeat(1, 2)
    options = dict(arch=SMALL, out_indices=(0, 1), pretrained_window_sizes=8)
    large = parameterized(window_size=16, **options)
    large.load_state_dict({**parameterized(window_size=8, **options).state_dict(), TABLE.format(0): plane})
    table = large.state_dict()[TABLE.format(0)][:, 0].view(31, 31)
    offsets = torch.arange(-15., 16, dtype=torch.float64) * 15 / 31
    plane = offsets[:, None] + 100 * offsets[None, :]
    # to the ripple of torch's cubic kernel; a step of the plane is 48
    torch.testing.assert_close(table[4:-4, 4:-4], plane[4:-4, 4:-4], rtol=0, atol=6)


def test_a_table_of_an_unknown_window_is_an_error():
    net = parameterized(arch=SMALL, window_size=8, out_indices=(0, 1))
    with pytest.raises(ValueError, match=r'relative_position_bias_table must have \(2h-1\)\(2w-1\) rows .* got 105'):
        net.load_state_dict({**net.state_dict(), TABLE.format(0): torch.zeros(15 * 7, 2)})


def test_a_public_table_says_its_window():
    net = parameterized(window_size=[8, 6, 4], pretrained_window_sizes=None)
    found = read_backbone_state(peer_files.microsoft(net.state_dict(), PLAIN['depths']))
    assert found.pretrained_window_sizes == found.window_sizes == ((8, 8), (6, 6), (4, 4))
    assert check_complete(found)['position_bias'] == 'parameterized'
    with pytest.raises(ValueError, match=r'pre-trained with, \[8, 6, 4\], got \[16, 16, 16\]'):
        load_backbone(parameterized(window_size=16, pretrained_window_sizes=None), found)


@pytest.mark.parametrize('says', [True, False])
@pytest.mark.parametrize('reader', [True, False])
@pytest.mark.parametrize('old, new', [((8, 2), (5, 3)), ((23, 3), (8, 8)), ((8, 8), (23, 3)),
                                      ((5, 3), (8, 2))])
def test_a_table_with_as_many_rows_is_of_the_window_of_pretraining(old, new, reader, says):
    """45 rows are 15 x 3 and 9 x 5: what a file or the config says decides."""
    state = parameterized(window_size=[old] * 3, pretrained_window_sizes=None).state_dict()
    net = parameterized(seed=1, window_size=[new] * 3, pretrained_window_sizes=[old] * 3)

    def load(net, state):
        load_backbone(net, read_backbone_state(state)) if reader else net.load_state_dict(state)
    load(net, state if says else without_windows(state))
    made = net.state_dict()
    for stage in range(3):
        table = state[TABLE.format(stage)]
        expected = resized(table, old, new)
        assert expected.shape == table.shape and not torch.equal(expected, table)
        torch.testing.assert_close(made[TABLE.format(stage)], expected, rtol=1e-12, atol=1e-12)
    again = parameterized(seed=2, window_size=[new] * 3, pretrained_window_sizes=[old] * 3)
    load(again, made)  # as a resumed run does: it is not resized again
    assert_same(dict(again.state_dict()), dict(made))
    assert read_backbone_state(made).pretrained_window_sizes == (new,) * 3
    load(parameterized(window_size=[new] * 3, pretrained_window_sizes=None), made)
    with pytest.raises(ValueError, match='pretrained_window_sizes must be what the checkpoint was pre-trained with'):
        load(parameterized(window_size=[new] * 3, pretrained_window_sizes=7), state)


@pytest.mark.parametrize('old, new', [((5, 3), (8, 2)), ((5, 3), (3, 5)), ((8, 8), (23, 3)), ((23, 3), (8, 8))])
def test_a_resized_table_is_not_taken_for_that_of_another_window(old, new):
    """A second change of the window, from one to another with as many rows; the weights were pre-trained with 7."""
    state = parameterized(window_size=[old] * 3, pretrained_window_sizes=7).state_dict()
    said = state['pretrained_window_sizes'].tolist()
    assert said == ([[7, 7]] if old[0] == old[1] else [list(old)]) * 3
    if old[0] != old[1]:
        with pytest.raises(ValueError, match=rf'pre-trained with, \[\({old[0]}, {old[1]}\), .* got \[7, 7, 7\]'):
            parameterized(window_size=[new] * 3, pretrained_window_sizes=7).load_state_dict(state)
    net = parameterized(seed=1, window_size=[new] * 3, pretrained_window_sizes=said)
    load_backbone(net, read_backbone_state(state))
    table = state[TABLE.format(0)]
    expected = resized(table, old, new)
    assert expected.shape == table.shape and not torch.equal(expected, table)
    torch.testing.assert_close(net.state_dict()[TABLE.format(0)], expected, rtol=1e-12, atol=1e-12)


def test_a_table_that_is_not_square_is_what_the_config_says():
    state = without_windows(parameterized(window_size=[(23, 3)] * 3, pretrained_window_sizes=None).state_dict())
    net = parameterized(seed=1, window_size=[(23, 3)] * 3, pretrained_window_sizes=[(23, 3)] * 3)
    load_backbone(net, read_backbone_state(state))
    assert_same(without_windows(net.state_dict()), dict(state))
    assert read_backbone_state(state).pretrained_window_sizes == ((8, 8),) * 3  # without a config: square


@pytest.mark.parametrize('kind', ['log_cpb', 'parameterized'])
def test_windows_that_nobody_says_are_a_missing_key(kind):
    """To torch's own loading, too."""
    net = backbone(PLAIN, position_bias=kind, pretrained_window_sizes=None)
    state = without_windows(net.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "pretrained_window_sizes"\.'):
        net.load_state_dict(state)
    backbone(PLAIN, position_bias=kind, pretrained_window_sizes=8).load_state_dict(state)


def test_a_table_of_a_window_that_nobody_says_is_an_error():
    state = without_windows(parameterized(window_size=[(8, 2)] * 3, pretrained_window_sizes=None).state_dict())
    with pytest.raises(ValueError, match='set pretrained_window_sizes in the config'):
        load_backbone(parameterized(window_size=[(5, 3)] * 3, pretrained_window_sizes=None), read_backbone_state(state))
    with pytest.raises(ValueError, match='square or one of .* got 45'):
        check_complete(read_backbone_state(state))


def prefixed(text):
    return lambda state: {text + k: v for k, v in state.items()}


def in_each_block(text):
    return lambda state: {k.replace('.attn.', f'.{text}attn.').replace('.mlp.', f'.{text}mlp.'): v
                          for k, v in state.items()}


def averaged(state):
    """As torch saves a model's average."""
    net = torch.optim.swa_utils.AveragedModel(backbone(PLAIN))
    assert {'n_averaged', 'module.norm0.bias'} <= net.state_dict().keys()
    return {**net.state_dict(), **prefixed('module.')(state)}


WRAPPED = {
    'DistributedDataParallel': prefixed('module.'), 'torch.compile': prefixed('_orig_mod.'),
    'both': prefixed('module._orig_mod.'), 'both, the other way': prefixed('_orig_mod.module.'),
    'activation checkpointing': in_each_block('_checkpoint_wrapped_module.'),
    'compiled blocks': in_each_block('_orig_mod.'),
    'FSDP': lambda state: prefixed('_fsdp_wrapped_module.')(in_each_block(
        '_fsdp_wrapped_module._checkpoint_wrapped_module.')(state)),
    'AveragedModel': averaged, 'model_ema': lambda s: dict(model_ema=s, epoch=3, optimizer=dict(state={}, lr=.1)),
    'state_dict_ema': lambda s: dict(state_dict_ema=prefixed('module.')(s), arch='swinv2', amp_scaler=dict(scale=1.)),
    'ema_state_dict': lambda s: dict(ema_state_dict=dict(prefixed('module.')(s), steps=torch.tensor(4))),
    'nested': lambda s: dict(ema=dict(module=s, updates=3)), 'model_state_dict': lambda s: dict(model_state_dict=s),
    'beside an empty one': lambda s: dict(state_dict={}, model=None, model_ema=s),
    'a detector': lambda s: dict(model_ema=dict(prefixed('module.backbone.')(s), **{'module.neck.w': torch.ones(1)})),
}


@pytest.mark.parametrize('wrapped', WRAPPED)
def test_what_wraps_a_model_is_taken_off(wrapped):
    state = dict(backbone(PLAIN).state_dict())
    found = read_backbone_state(WRAPPED[wrapped](state))
    assert_same(found.state, state)


def test_the_names_are_those_that_torch_gives():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    net = backbone(PLAIN)
    apply_activation_checkpointing(net, check_fn=lambda module: type(module).__name__ in ('SwinBlock', 'Mlp'))
    names = dict(torch.compile(net).named_parameters())  # of a state dict torch takes the wrapper off itself
    assert sum('_checkpoint_wrapped_module.' in k for k in names) > 50 and all(k[:10] == '_orig_mod.' for k in names)
    state = backbone(PLAIN).state_dict()
    found = read_backbone_state({k: v.detach() for k, v in names.items()})
    assert found.state.keys() == {k for k in state if k != 'pretrained_window_sizes'}
    assert all(torch.equal(v, state[k]) for k, v in found.state.items())


def test_which_entry_is_meant_can_be_said():
    state = dict(backbone(PLAIN).state_dict())
    ema = {k: v + 1 for k, v in state.items()}
    contents = dict(state_dict=state, state_dict_ema=prefixed('module.backbone.')(ema))
    assert_same(read_backbone_state(contents).state, state)
    for prefix in ('state_dict_ema', 'state_dict_ema.', 'state_dict_ema.backbone', 'state_dict_ema.module.backbone.'):
        found = read_backbone_state(contents, prefix=prefix)
        assert_same(found.state, ema)
        assert found.prefix == 'state_dict_ema.backbone.'
    contents = dict(student=state, teacher=ema)
    with pytest.raises(ValueError, match=r"prefix must say which state dict .* one of \['student', 'teacher'\]"):
        read_backbone_state(contents)
    assert_same(read_backbone_state(contents, prefix='teacher').state, ema)


RGB = torch.eye(3, dtype=torch.float64)
CHANNELS = {  # what each channel gets of the red, green and blue weights
    ('sum', 1): [[1, 1, 1]], ('mean', 1): [[1 / 3] * 3], ('repeat', 1): [[1, 1, 1]],
    ('sum', 2): [[1, 1, 1]] * 2, ('mean', 2): [[1 / 3] * 3] * 2, ('repeat', 2): [[1, 0, 1], [0, 1, 0]],
    **{(how, n): [*RGB, [0] * 3, [0] * 3][:n] for how in ('sum', 'mean', 'repeat') for n in (3, 4, 5)},
}


@pytest.mark.parametrize('how, channels', CHANNELS)
def test_rgb_weights_for_other_channels(how, channels):
    state = backbone(PLAIN).state_dict()
    before = state['patch_embed.proj.weight'].clone()
    rows = torch.tensor([list(row) for row in CHANNELS[how, channels]], dtype=torch.float64)
    expected = torch.einsum('nm,cmhw->cnhw', rows, before)
    found = adapt_in_channels(read_backbone_state(state), channels, how)
    torch.testing.assert_close(found.state['patch_embed.proj.weight'], expected, rtol=1e-12, atol=1e-12)
    assert check_complete(found).get('in_channels', 3) == channels
    assert torch.equal(state['patch_embed.proj.weight'], before)
    net = backbone(PLAIN, seed=1, in_channels=channels)
    load_backbone(net, found)
    clips = adapt_in_channels(inflate_state(read_backbone_state(state), temporal_patch_size=2, temporal_window=8),
                              channels, how)
    torch.testing.assert_close(clips.state['patch_embed.proj.weight'].sum(2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_repeated_channels_are_seen_as_the_rgb_model_sees_them(channels, rng):
    net, other = backbone(PLAIN), backbone(PLAIN, seed=1, in_channels=channels)
    load_backbone(other, adapt_in_channels(read_backbone_state(net.state_dict()), channels, 'repeat'))
    x = torch.randn(1, channels, 40, 40, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(other(x)[-1], net(x[:, [i % channels for i in range(3)]])[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('theirs, ours, message', [
    (dict(arch='tiny'), dict(arch='base'), r"with arch='base' \(embed_dims=128, depths=\(2, 2, 18, 2\), num_heads=.*, "
     r"as the config says, got one with arch='tiny' \(embed_dims=96, depths=\(2, 2, 6, 2\)"),
    (dict(arch=PLAIN), dict(arch='tiny'), r'got one with arch=dict\(embed_dims=8, depths=\(2, 1, 2\), num_heads='),
    (dict(arch=DEEP), dict(arch=dict(DEEP, extra_norm_every_n_blocks=3)), 'with arch.* extra_norm_every_n_blocks=3.*'
     r', got one with .*extra_norm_every_n_blocks=2\)$'),
    (dict(arch=PLAIN), dict(arch=dict(PLAIN, num_heads=(1, 2, 4))), r'num_heads=\(1, 2, 4\)\), .*\(2, 4, 4\)\)$'),
    (dict(arch=PLAIN), dict(arch=PLAIN, in_channels=1), 'with in_channels=1, as the config says, got one with '
     "in_channels=3; init_cfg.adapt_in_channels='sum', 'mean' or 'repeat', or --adapt-in-channels of "),
    (dict(arch=PLAIN), dict(arch=PLAIN, mlp_ratio=2, qkv_bias=False), 'with mlp_ratio=2, qkv_bias=False, as'),
    (dict(arch=PLAIN, mlp_ratio=2.7), dict(arch=PLAIN, mlp_ratio=2.7, in_channels=1), 'with in_channels=1, as'),
    (dict(arch=PLAIN, position_bias='parameterized'), dict(arch=PLAIN, position_bias='linear_cpb'),
     "with position_bias='linear_cpb', as the config says, got one with position_bias='parameterized'$"),
])
def test_weights_of_another_backbone_say_of_which(theirs, ours, message):
    def whole(arch, **options):
        return SwinTransformerV2(arch, out_indices=(len(get_arch(arch).depths) - 1,), window_size=4,
                                 pretrained_window_sizes=4, **options)
    with torch.device('meta'):
        net, other = whole(**ours), whole(**theirs)
    state = {k: torch.ones(()).expand(v.shape) if k != 'pretrained_window_sizes' else v
             for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(net, read_backbone_state(state))
    assert 'layers.' not in str(error.value)


def test_weights_on_clips_are_not_for_images():
    found = inflate_state(read_backbone_state(backbone(PLAIN).state_dict()), temporal_patch_size=2, temporal_window=8)
    with pytest.raises(ValueError, match='with no temporal_patch_size, as the config says, got one with temporal_'):
        load_backbone(backbone(PLAIN), found)
