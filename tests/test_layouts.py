"""Each layout is a map and its inverse: names are bijective, and what is written is read again exactly, extras too."""
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import peer_files
from helpers.backbones import DEEP, PLAIN, backbone, randomize
from helpers.files import FILES, PLACES, SILENT
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.weights import LAYOUTS, BackboneState, group_extras, load_backbone, read_backbone_state, to_layout
from mmswinv2.core.weights.layouts import OWN, microsoft, mmpretrain
from mmswinv2.core.weights.layouts.base import Template, splitting
from mmswinv2.core.weights.layouts.buffers import pair_index

pytestmark = pytest.mark.core

LASTS = [name for name in LAYOUTS if name not in ('mmswinv2', 'mmpretrain')]  # one norm after the last stage


def extras(state, *, mask_token=True):
    head = {f'head.{part}': value for part, value in peer_files.head(state).items()}
    return dict(head, mask_token=peer_files.mask_token(state)) if mask_token else head


def own_names(target):
    """Every name that a backbone of four stages can have in its own layout, as far as the other can compute it."""
    computes = LAYOUTS[target].computes
    net = SwinTransformerV2(dict(embed_dims=4, depths=[1, 2, 11, 1], num_heads=[1] * 4, extra_norm_every_n_blocks=1))
    names = [k for k in net.state_dict() if 'norm3' in computes or not re.search(r'blocks\.\d+\.norm3', k)]
    if 'parameterized' in computes:
        names += [k.replace('logit_scale', 'relative_position_bias_table') for k in names if 'logit_scale' in k]
    return names


@pytest.mark.parametrize('target', LAYOUTS)
def test_names_are_bijective(target):
    layout, names = LAYOUTS[target], own_names(target)
    theirs = [layout.their_name(k) for k in names]
    assert len(set(theirs)) == len(names) == len(set(names)) > 150
    assert [layout.our_name(k) for k in theirs] == names
    extra = ['head.weight', 'head.bias', 'mask_token']
    places = [layout.extras.theirs(k) or layout.outside_root.theirs(k) for k in extra]
    assert [layout.extras.ours(k) or layout.outside_root.ours(k) for k in places if k] == [
        k for k, place in zip(extra, places) if place]
    assert not set(places) & set(theirs)


@pytest.mark.parametrize('target', LAYOUTS)
@given(name=st.from_regex(OWN, fullmatch=True) | st.from_regex(
    r'(layers|stages|features|encoder\.layers)\.\d{1,2}\.(blocks\.)?\d{1,2}\.(attn|attention\.self|mlp|norm1)'
    r'\.(w_msa\.|cpb_mlp\.|rpe_mlp\.)?(0|3|fc1|q_bias|query|weight)(\.weight|\.bias)?', fullmatch=True))
def test_a_name_that_is_read_is_written_as_it_was(target, name):
    """Of any name: there is one way back, or the layout does not know it."""
    layout = LAYOUTS[target]
    ours = layout.our_name(name)
    assert ours is None or layout.their_name(ours) == name
    theirs = layout.their_name(name)
    assert layout.our_name(theirs) in (name, None)


@pytest.mark.parametrize('text, name, values', [
    ('layers.{stage}.{rest}', 'layers.3.a.b', dict(stage=3, rest='a.b')),
    ('layers.{stage+1}.{part}', 'layers.3.bias', dict(stage=2, part='bias')),
    ('features.{2*stage+1}.{block}.x', 'features.5.12.x', dict(stage=2, block=12))])
def test_templates(text, name, values):
    assert Template(text).parse(name) == values and Template(text).fill(values) == name


@pytest.mark.parametrize('text, name', [
    ('layers.{stage+1}.x', 'layers.0.x'), ('features.{2*stage+1}.x', 'features.2.x'), ('a.{stage}', 'a.01'),
    ('a.{stage}', 'b.a.1'), ('a.{part}', 'a.scale'), ('a.{stage}', 'a.' + '9' * 5000)])
def test_names_of_other_templates(text, name):
    assert Template(text).parse(name) is None


@st.composite
def states(draw, target):
    """Weights and extras of a small backbone that the target can compute, and the kind of its position bias."""
    computes = LAYOUTS[target].computes
    stages = draw(st.integers(1, 4))
    arch = dict(embed_dims=2 * draw(st.integers(1, 3)), depths=draw(st.lists(st.integers(1, 3), min_size=stages,
                                                                             max_size=stages)),
                num_heads=[draw(st.sampled_from([1, 2])) for _ in range(stages)])
    if 'norm3' in computes and draw(st.booleans()):
        arch['extra_norm_every_n_blocks'] = draw(st.integers(1, 2))
    biases = ['log_cpb'] + [kind for kind in ('linear_cpb', 'parameterized') if kind in computes]
    one, side = target == 'torchvision', st.integers(2, 5)
    window = side if target == 'microsoft' else side | st.tuples(side, side)
    windows = [draw(window)] * stages if one else [draw(window) for _ in range(stages)]
    kind = draw(st.sampled_from(biases))
    net = SwinTransformerV2(
        arch, window_size=windows, qkv_bias=draw(st.booleans()), in_channels=draw(st.sampled_from([1, 3])),
        mlp_ratio=draw(st.sampled_from([.5, 4.])), position_bias=kind,
        norm_placement=draw(st.sampled_from(['res_post', 'pre'] if 'pre' in computes else ['res_post'])),
        out_indices=range(stages) if target not in LASTS and draw(st.booleans()) else (stages - 1,))
    state = randomize(net, seed=draw(st.integers(0, 9))).to(draw(st.sampled_from([torch.float32, torch.float64,
                                                                                  torch.bfloat16]))).state_dict()
    more = extras(state)
    return state, {k: more[k] for k in draw(st.sets(st.sampled_from(sorted(more))))}, kind


def same(a, b):
    return set(a) == set(b) and all(v.dtype == b[k].dtype and torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize('target', LAYOUTS)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_written_is_read_again(target, data):
    """Exactly, in all layouts. A single stage has no merging to tell timm by."""
    state, more, kind = data.draw(states(target))
    sizes = dict(window_size=4) if target == 'microsoft' else {}
    before = {k: v.clone() for k, v in {**state, **more}.items()}
    out, left = to_layout(BackboneState(dict(state), 'mmswinv2', '', position_bias=kind, extras=dict(more)), target,
                          **sizes)
    kept = {k: v for k, v in more.items() if k != 'mask_token' or PLACES[target][1]}
    assert left == group_extras(k for k in more if k not in kept)
    again = read_backbone_state(out)
    assert again.source == ('microsoft' if target == 'timm' and 'layers.1.blocks.0.norm1.bias' not in out else target)
    assert set(again.dropped) <= {'derived buffers'}
    if target in SILENT:
        assert again.pretrained_window_sizes is None
        again.state['pretrained_window_sizes'] = state['pretrained_window_sizes']
    assert same(again.state, state) and same(again.extras, kept)
    assert again.position_bias == (None if LAYOUTS[target].buffers is None else kind)
    assert same({**state, **more}, before)  # what was given is not changed
    twice, _ = to_layout(replace(again, position_bias=kind), target, **sizes)
    assert same(twice, out)


@pytest.mark.parametrize('target', [k for k in LAYOUTS if k != 'mmswinv2'])
def test_what_is_written_is_what_the_project_saves(target):
    """By names and tensors, against files written out by hand, with their heads and mask tokens."""
    _, arch, write = FILES[target]
    state = backbone(arch, out_indices=(2,)).state_dict()
    theirs = write(state, arch['depths'])
    theirs = theirs.get('model', theirs.get('state_dict', theirs))
    more = extras(state, mask_token=target == 'simmim')
    if target == 'simmim':
        del more['head.weight'], more['head.bias']
    ours, _ = to_layout(BackboneState(state, 'mmswinv2', '', extras=more), target)
    derived = r'.*\.(relative_position_index|relative_coords_table|attn_mask)|decoder\..*'
    ours, theirs = ({k: v for k, v in s.items() if not re.fullmatch(derived, k)} for s in (ours, theirs))
    for k, v in theirs.items():
        if k.endswith('qkv.bias'):
            v.chunk(3)[1].zero_()  # of keys: anything, it is not used
    assert same(ours, theirs)


@pytest.mark.parametrize('target', LAYOUTS)
def test_extras_stand_where_the_project_has_them(target):
    state = backbone(PLAIN, out_indices=(2,)).state_dict()
    found = BackboneState(state, 'mmswinv2', '', extras=extras(state))
    out, left = to_layout(found, target)
    head, mask_token = PLACES[target]
    assert torch.equal(out[head], found.extras['head.weight'])
    if mask_token:
        assert torch.equal(out[mask_token], found.extras['mask_token'])
    assert left == ({} if mask_token else {'mask token of SimMIM': ['mask_token']})
    net = backbone(PLAIN, seed=1, out_indices=(2,))
    text = load_backbone(net, read_backbone_state(out))
    assert '; classification head: 2' in text and ('; mask token of SimMIM: 1' in text) == bool(mask_token)
    assert same(net.state_dict(), state)


def test_a_head_beside_a_backbone_of_this_project():
    """As mmpretrain keeps a classifier of ours; a head within the backbone comes before one beside it."""
    state = backbone(PLAIN).state_dict()
    head = peer_files.head(state)
    file = {**{f'model.backbone.{k}': v for k, v in state.items()},
            **{f'model.head.fc.{k}': v for k, v in head.items()}, 'model.neck.weight': torch.zeros(1)}
    found = read_backbone_state(file)
    assert same(found.extras, {f'head.{k}': v for k, v in head.items()})
    assert found.dropped == {'outside of the backbone': ['model.neck.weight']}
    found = read_backbone_state({**file, 'model.backbone.head.weight': torch.ones(2)})
    assert torch.equal(found.extras['head.weight'], torch.ones(2))
    assert found.dropped == {'outside of the backbone': ['model.head.fc.weight', 'model.neck.weight']}
    with pytest.raises(ValueError, match='each weight once, got two for head.bias'):
        read_backbone_state({**state, 'head.bias': torch.ones(2), 'head.fc.bias': torch.ones(2)})


def test_a_head_that_is_not_finite_is_not_written_and_does_not_matter_to_a_backbone():
    state = backbone(PLAIN).state_dict()
    found = read_backbone_state({**state, 'head.weight': torch.tensor([float('nan')])})
    load_backbone(backbone(PLAIN, seed=1), found)
    with pytest.raises(ValueError, match=r'must hold finite weights, got .* 1 of 1: head.weight'):
        to_layout(found, 'timm')


@pytest.mark.parametrize('target, options, message', [
    ('timm', dict(arch=DEEP), 'timm can compute; it has no the extra norm of blocks'),
    ('timm', dict(position_bias='parameterized'), "no position_bias='parameterized'"),
    ('timm', dict(norm_placement='pre'), "no norm_placement='pre'"),
    ('torchvision', dict(pretrained_window_sizes=[4, 4, 3]), r'same in all stages for torchvision, got \[4, 4, 3\]'),
    ('torchvision', dict(arch=DEEP), 'torchvision can compute; it has no the extra norm of blocks'),
    ('mmpretrain', dict(norm_placement='pre'), "mmpretrain can compute; it has no norm_placement='pre'"),
    ('mmpretrain', dict(position_bias='linear_cpb', windows=False), 'must be given: the checkpoint does not say them, '
     'and the buffers of mmpretrain'),
    ('simmim', dict(position_bias='parameterized'), "simmim can compute; it has no position_bias='parameterized'"),
    ('mmpretrain', dict(window_size=4096, pretrained_window_sizes=4096), 'at most 8 GiB for mmpretrain, got'),
])
def test_what_a_layout_has_no_form_for_is_refused(target, options, message):
    options = dict(options)
    windows = options.pop('windows', True)
    state = backbone(options.pop('arch', PLAIN), **options).state_dict()
    if not windows:
        del state['pretrained_window_sizes']
    with pytest.raises(ValueError, match=message):
        to_layout(read_backbone_state(state), target)


def test_sizes_are_for_the_layout_whose_buffers_depend_on_them():
    found = read_backbone_state(backbone(PLAIN).state_dict())
    for options in (dict(window_size=8), dict(image_size=64)):
        with pytest.raises(ValueError, match='must be given for microsoft only, got'):
            to_layout(found, 'timm', **options)
    with pytest.raises(ValueError, match='target must be one of mmswinv2, .*, got .jax.'):
        to_layout(found, 'jax')


def test_a_name_of_another_layout_is_not_known():
    """Merging of timm at the first stage, an MLP named as here in torchvision, norms of both layouts in one file."""
    state = backbone(PLAIN).state_dict()
    for source, name in (('timm', 'layers.0.downsample.norm.bias'), ('torchvision', 'features.1.0.mlp.fc1.bias'),
                         ('transformers', 'swinv2.encoder.layers.0.blocks.0.norm1.weight')):
        contents = FILES[source][2](state, PLAIN['depths'])
        with pytest.raises(ValueError, match=rf'the layout of {source}; not known: 1 \({name.removeprefix("swinv2.")}'):
            read_backbone_state({**contents, name: torch.zeros(2)}, source=source)


@pytest.mark.parametrize('change', [
    lambda s, k: s.pop(f'{k}.query.weight'), lambda s, k: s.pop(f'{k}.value.weight'),
    lambda s, k: s.update({f'{k}.key.weight': torch.ones(3, 8)})])
def test_parts_must_be_whole(change):
    contents = peer_files.transformers(backbone(PLAIN).state_dict(), PLAIN['depths'])
    change(contents, 'swinv2.encoder.layers.0.blocks.0.attention.self')
    with pytest.raises(ValueError, match='must hold query, key and value weights of one shape at layers.0.blocks.0'):
        read_backbone_state(contents)


@given(rows=st.integers(1, 4), tail=st.lists(st.integers(1, 3), max_size=2))
def test_splitting_is_undone_by_joining(rows, tail):
    whole = {'a.b': torch.randn(3 * rows, *tail), 'c': torch.ones(1)}
    step = splitting('parts', '.b', ('.x', '.y', '.z'))
    assert set(step.read(whole)) == {'a.x', 'a.y', 'a.z', 'c'} and same(step.write(step.read(whole)), whole)
    assert torch.equal(step.read(whole)['a.y'], whole['a.b'][rows:2 * rows])
    unused = splitting('parts', '.b', ('.x', None, '.z'))
    assert set(unused.read(whole)) == {'a.x', 'a.z', 'c'}
    joined = unused.write(unused.read(whole))['a.b']
    assert torch.equal(joined[:rows], whole['a.b'][:rows]) and not joined[rows:2 * rows].any()


@given(channels=st.integers(1, 5))
def test_the_order_of_unfold(channels):
    theirs = torch.arange(4 * channels)
    ours = theirs[mmpretrain.unfold_order(4 * channels)]
    assert torch.equal(peer_files.unfold_order(ours), theirs)
    assert torch.equal(ours[mmpretrain.unfold_order(4 * channels).argsort()], theirs)


@given(windows=st.integers(1, 4), size=st.integers(2, 6))
def test_the_mask_of_the_release(windows, size):
    """By position: two tokens of a shifted window see each other if they are as near in the map as in the window."""
    n, shift = windows * size, size // 2
    mask = microsoft.shift_mask(n, size)
    token = [[(window * size + i + shift) % n for i in range(size)] for window in range(windows)]
    expected = torch.tensor([[[0. if all(token[w][b] - token[w][a] == b - a for w, a, b in (
        (wh, p // size, q // size), (ww, p % size, q % size))) else -100. for q in range(size**2)]
        for p in range(size**2)] for wh in range(windows) for ww in range(windows)])
    assert torch.equal(mask, expected)


@given(window=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_the_index_of_pairs_on_any_number_of_axes(window):
    index, offsets = pair_index(window), [2 * n - 1 for n in window]
    tokens = torch.cartesian_prod(*(torch.arange(n) for n in window)).view(-1, len(window)).tolist()
    for p, query in enumerate(tokens):
        for q, key in enumerate(tokens):
            expected = 0
            for n, size, a, b in zip(window, offsets, query, key):
                expected = expected * size + a - b + n - 1
            assert index[p, q] == expected
