"""``tools/export_onnx.py``, and what torch exports of the backbone as it is."""
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import export_onnx
from helpers.backbones import randomize
from helpers.configs import CONFIGS, load
from mmswinv2.core import SwinTransformerV2
from mmswinv2.core.attention import backends
from mmswinv2.hosts import is_installed

pytestmark = [pytest.mark.mmdet, pytest.mark.mmseg, pytest.mark.mmpretrain]

needs_onnx = pytest.mark.skipif(not all(map(is_installed, ('onnx', 'onnxscript', 'onnxruntime'))),
                                reason="needs pip install 'mmswinv2-plugin[onnx]'")


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
    assert not backends._is_exported()


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='torch without torch.compiler.is_exporting')
def test_torch_export_with_a_dynamic_batch(rng):
    net = randomize(SwinTransformerV2(dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2)), window_size=8,
                                      out_indices=(0, 1))).eval()
    x = torch.rand(2, 3, 72, 80, generator=rng)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    for image in (x, torch.rand(3, 3, 72, 80, generator=rng)):
        for a, b in zip(program.module()(image), net(image)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name, options, message', [
    ('mmdet/htc_swinv2_mini.py', ['--size', '64', '64'], "--backbone be given, got default_scope='mmdet'"),
    ('mmpretrain/swinv2_mini.py', ['--size', '16', '64'], '--size must be >= 32 px, got [16, 64]')])
def test_bad_input_is_one_line(name, options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_onnx, 'is_installed', lambda package: True)
    assert export_onnx.main([str(CONFIGS / name), 'a.pth', str(tmp_path / 'a.onnx'), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
    monkeypatch.setattr(export_onnx, 'is_installed', lambda package: False)
    assert export_onnx.main([str(CONFIGS / name), 'a.pth', str(tmp_path / 'a.onnx'), '--size', '64', '64']) == 2
    assert "onnx is not installed: pip install 'mmswinv2-plugin[onnx]'" in capsys.readouterr().err
