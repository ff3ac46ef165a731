"""What a user's type checker sees of the core; ``make lint`` checks the core itself."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.core, pytest.mark.slow]

pytest.importorskip('mypy')

ROOT = Path(__file__).parents[1]
USE = '''
import torch
from mmswinv2.core import BackboneConfig, SwinTransformerV2, VideoSwinTransformerV2, window_attention
from mmswinv2.core.weights import load_backbone, read_backbone_state, read_file

net = SwinTransformerV2('tiny', window_size=[8, 8, (4, 8), 8], out_indices=[1, 3], with_cp=True)
video = VideoSwinTransformerV2(dict(embed_dims=8, depths=[1], num_heads=[1]), temporal_patch_size=1)
config = BackboneConfig(arch='tiny', window_size=8)
BackboneConfig(windowsize=8)  # type: ignore[call-arg]
BackboneConfig(in_channels='3')  # type: ignore[arg-type]
load_backbone(net, read_backbone_state(read_file('a.pth')))
reveal_type(net.forward(torch.zeros(1, 3, 64, 64)))
reveal_type(config.windows)
reveal_type(net.features[0].channels)
reveal_type(window_attention)
'''


def test_names_of_the_core_are_typed(tmp_path):
    (tmp_path / 'use.py').write_text(USE)
    result = subprocess.run(
        [sys.executable, '-m', 'mypy', '--strict', '--follow-imports=silent', 'use.py'], cwd=tmp_path,
        env=dict(os.environ, MYPYPATH=str(ROOT)), capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout  # an error that is ignored and does not come is one, too
    shown = [line.partition('Revealed type is ')[2].strip('"') for line in result.stdout.splitlines()]
    assert shown[:3] == ['tuple[torch._tensor.Tensor, ...]', 'tuple[tuple[int, ...], ...]', 'int']
    assert 'qkv: torch._tensor.Tensor' in shown[3] and '-> torch._tensor.Tensor' in shown[3]

