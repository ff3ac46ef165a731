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
load_backbone(net, read_backbone_state(read_file('a.pth')))
reveal_type(net.forward(torch.zeros(1, 3, 64, 64)))
reveal_type(net.layers[0].blocks[1].attn.logit_scale)
reveal_type(config.window_size)
reveal_type(net.features[0].channels)
reveal_type(window_attention)
'''
WRONG = '''
from mmswinv2.core import SwinTransformerV2

SwinTransformerV2('tiny', windowsize=8)
SwinTransformerV2('tiny', window_size='8')
SwinTransformerV2('tiny', temporal_patch_size=2)
SwinTransformerV2(3)
'''


def check(code, folder):
    """The lines of mypy, without the file's name, and its exit code."""
    (folder / 'use.py').write_text(code)
    result = subprocess.run([sys.executable, '-m', 'mypy', '--strict', '--follow-imports=silent', 'use.py'], cwd=folder,
                            env=dict(os.environ, MYPYPATH=str(ROOT)), capture_output=True, text=True, timeout=280)
    return [line.partition('use.py:')[2] for line in result.stdout.splitlines() if 'use.py:' in line], result.returncode


def test_names_of_the_core_are_typed(tmp_path):
    lines, code = check(USE, tmp_path)
    assert code == 0, lines
    shown = [line.partition('Revealed type is ')[2].strip('"') for line in lines]
    assert shown == ['tuple[torch._tensor.Tensor, ...]', 'torch.nn.parameter.Parameter',
                     'tuple[tuple[int, ...], ...]', 'int', shown[4]]
    assert 'qkv: torch._tensor.Tensor' in shown[4] and '-> torch._tensor.Tensor' in shown[4]


def test_wrong_options_are_errors_of_types(tmp_path):
    lines, code = check(WRONG, tmp_path)
    errors = [line for line in lines if 'error:' in line]
    assert code == 1 and [int(line.split(':')[0]) for line in errors] == [4, 5, 6, 7], lines
