"""``tools/export_onnx.py``, and what torch exports of the backbone as it is."""
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import export_onnx
from helpers.backbones import randomize
from helpers.configs import CONFIGS, load
from mmswinv2.core import SwinTransformerV2, torch_compat
from mmswinv2.hosts import is_installed

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain]

needs_onnx = pytest.mark.skipif(not all(map(is_installed, ('onnx', 'onnxscript', 'onnxruntime'))),
                                reason="needs pip install 'mmswinv2-plugin[onnx]'")

needs_export = pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'),
                                  reason='torch without torch.compiler.is_exporting')


@pytest.fixture
def checkpoint(tmp_path):
    def save(name):
        cfg = load(name)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        torch.save(dict(state_dict=randomize(model, std=.1).state_dict()), tmp_path / 'a.pth')
        return [str(CONFIGS / name), str(tmp_path / 'a.pth'), str(tmp_path / 'out' / 'a.onnx')]
    return save


@needs_onnx
@pytest.mark.parametrize('name, size, options', [
    ('mmseg/upernet_swinv2_mini.py', (96, 128), []), ('mmpretrain/swinv2_mini.py', (64, 64), []),
    ('mmdet/htc_swinv2_mini.py', (96, 80), ['--backbone'])])
def test_onnxruntime_gives_the_same(name, size, options, checkpoint, tmp_path, capsys):
    assert export_onnx.main([*checkpoint(name), '--size', *map(str, size), *options]) == 0
    assert 'differ by' in capsys.readouterr().out and (tmp_path / 'out' / 'a.onnx').stat().st_size > 10_000


@needs_onnx
def test_large_windows_are_exported_with_the_default_backend():
    """Where ``auto`` is ``cells`` otherwise, which ONNX does not know."""
    net = randomize(SwinTransformerV2(dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2)), window_size=16,
                                      out_indices=(0, 1), attn_budget_mib=1)).eval()
    program = torch.onnx.export(net, (torch.rand(1, 3, 256, 192),), dynamo=True, verbose=False)
    assert not any('mmswinv2' in node.domain for node in program.model.graph)
    assert not torch_compat.is_exporting()


@needs_export
@pytest.mark.slow
def test_torch_export_with_a_dynamic_batch(rng):
    net = randomize(SwinTransformerV2(dict(embed_dims=8, depths=(2,), num_heads=(1,)), window_size=8,
                                      out_indices=(0,))).eval()
    x = torch.rand(2, 3, 72, 80, generator=rng)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    for image in (x, torch.rand(3, 3, 72, 80, generator=rng)):
        for a, b in zip(program.module()(image), net(image)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@needs_export
@pytest.mark.parametrize('depths, options, other', [
    ((2,), dict(window_size=4, mask_padding=False), None),
    pytest.param((2, 1), dict(window_size=4, position_bias='parameterized'), 32, marks=pytest.mark.slow),
    pytest.param((2, 1), dict(window_size=[4, 16], mask_padding=False), 200, marks=pytest.mark.slow)])
def test_torch_export_with_dynamic_sizes(depths, options, other, rng):
    """Each map has more tokens than the window, or each has fewer; an ``other`` size is refused."""
    sizes = dict(embed_dims=8, depths=depths, num_heads=(1, 2)[:len(depths)])
    net = randomize(SwinTransformerV2(sizes, out_indices=tuple(range(len(depths))), **options)).eval()
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(net, (torch.rand(2, 3, 61, 74, generator=rng),), dynamic_shapes=(dynamic,)).module()
    for shape in ((1, 3, 61, 74), (3, 3, 80, 64), (2, 3, 111, 50)):
        image = torch.rand(shape, generator=rng)
        for a, b in zip(program(image), net(image)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    if other is not None:
        with pytest.raises(AssertionError, match='Guard failed'):
            program(torch.rand(1, 3, other, other))


@pytest.fixture
def small(rng):
    """A backbone, and an example whose height and width are dynamic."""
    net = randomize(SwinTransformerV2(dict(embed_dims=8, depths=(2,), num_heads=(1,)), window_size=8,
                                      out_indices=(0,))).eval()
    return net, (torch.rand(2, 3, 72, 90, generator=rng),), dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)


def check_sizes(function, net, rng):
    for shape in ((1, 3, 72, 90), (3, 3, 111, 64), (2, 3, 128, 128)):
        image = torch.rand(shape, generator=rng)
        with torch.no_grad():
            torch.testing.assert_close(function(image), net(image)[0], atol=1e-5, rtol=1e-5)


@needs_export
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_aot_inductor_with_dynamic_sizes(small, tmp_path, rng):
    net, example, dynamic = small
    with torch.no_grad():
        program = torch.export.export(net, example, dynamic_shapes=(dynamic,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / 'a.pt2'))
    loaded = torch._inductor.aoti_load_package(package)
    check_sizes(lambda image: loaded(image)[0], net, rng)


@needs_onnx
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_onnx_with_dynamic_sizes(small, tmp_path, rng):
    import onnxruntime
    net, example, dynamic = small
    program = torch.onnx.export(net, example, dynamo=True, verbose=False, dynamic_shapes=(dynamic,))
    program.save(str(tmp_path / 'a.onnx'))
    session = onnxruntime.InferenceSession(str(tmp_path / 'a.onnx'), providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    check_sizes(lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0]), net, rng)


@needs_export
def test_balanced_windows_are_not_those_of_a_dynamic_size():
    net = SwinTransformerV2(dict(embed_dims=8, depths=(1,), num_heads=(1,)), window_size=4, out_indices=(0,),
                            window_fit='balanced').eval()
    sizes = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    with pytest.raises(Exception, match="window_fit must be 'exact' where height or width are dynamic, got 'balanced'"):
        torch.export.export(net, (torch.rand(1, 3, 61, 74),), dynamic_shapes=(sizes,))


@pytest.mark.parametrize('name, options, message', [
    ('mmdet/htc_swinv2_mini.py', ['--size', '64', '64'], "--backbone be given, got default_scope='mmdet'"),
    ('mmpretrain/swinv2_mini.py', ['--size', '0', '64'], '--size must be >= 1 px, got [0, 64]')])
def test_bad_input_is_one_line(name, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_onnx, 'is_installed', lambda package: True)
    assert export_onnx.main([str(CONFIGS / name), 'a.pth', str(tmp_path / 'a.onnx'), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
    monkeypatch.setattr(export_onnx, 'is_installed', lambda package: False)
    assert export_onnx.main([str(CONFIGS / name), 'a.pth', str(tmp_path / 'a.onnx'), '--size', '64', '64']) == 2
    assert "onnx is not installed: pip install 'mmswinv2-plugin[onnx]'" in capsys.readouterr().err
