"""The documentation: no link leads nowhere, no command names what is not there, and those that can be run are run."""
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch as safetensors_file
import torch

from helpers import peer_files
from helpers.docs import PAGES, ROOT, anchors, commands, links
from mmswinv2.__main__ import find_configs, find_tools
from mmswinv2.core import SwinTransformerV2
from mmswinv2.hosts import is_installed

pytestmark = pytest.mark.mmdet

ALL = [command for page in PAGES for command in commands(page)]
# what tests of their own run, or what would change the environment that tests run in
ELSEWHERE = ('make', 'pip', 'python3', 'sed', '.venv-core/bin/pip')
OWN = Path('docs/own_data.md')  # test_own_data.py runs its commands
HAS_ONNX = all(map(is_installed, ('onnx', 'onnxscript', 'onnxruntime')))
MIM = {'--launcher', '--gpus', '--work-dir', '--cfg-options', '--checkpoint', '--tta', '--resume', '--auto-scale-lr'}


@pytest.mark.parametrize('page', PAGES, ids=str)
def test_links_lead_somewhere(page):
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition('#')
        if re.match(r'\w+:', link):
            continue
        target = (ROOT / page.parent / path).resolve() if path else ROOT / page
        if not target.is_file() or not target.is_relative_to(ROOT):
            wrong.append(link)
        elif anchor and anchor not in anchors(target.relative_to(ROOT)):
            wrong.append(link)
    assert not wrong


def test_pages_are_found():
    assert {Path('README.md'), Path('docs/usage.md'), Path('configs/mmdet/README.md')} <= set(PAGES)
    assert len(ALL) > 60 and len([c for c in ALL if c.not_run]) < len(ALL) * .7


@pytest.mark.parametrize('command', ALL, ids=lambda c: f'{c.page.stem}: {c.text[:60]}')
def test_what_a_command_names_is_there(command):
    words = command.words
    options = {word for word in words if word.startswith('--') and word != '--'}
    if words[0] == 'make':
        assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.M)
    elif words[:3] == ['python', '-m', 'mmswinv2']:
        assert options <= {'--info'}
    elif words[0] == 'python' and words[1].endswith('.py'):
        source = (ROOT / words[1]).read_text()
        assert words[1].startswith(('tools/', 'demos/', 'benchmarks/'))
        assert not [option for option in options if f"'{option}'" not in source]
    elif words[0] == 'mim' and words[1] in ('train', 'test'):
        host, config = words[2:4]
        assert options <= MIM and (not config.startswith('configs/') or config.split('/')[1] == host)
    else:
        assert command.not_run or words[0] in (*ELSEWHERE, 'python')
    named = [word.partition('=')[0] for word in words if word.startswith('configs/')]
    assert not [path for path in named if not (ROOT / path).is_file()]
    assert set(re.findall(r'python -m mmswinv2 (\w\S*?)\)', command.text)) <= {*find_configs(), *find_tools()}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_commands_run_as_typed(tmp_path):
    """One after another, in a copy of what they name; files of others are made with random weights."""
    for name in ('configs', 'tools', 'demos', 'benchmarks'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    write_files_of_others(tmp_path)
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    first = [Path('docs/usage.md')]  # trains what the others use
    here = dict.fromkeys(c.text for page in first + [p for p in PAGES if p not in first] for c in commands(page)
                         if page != OWN and not c.not_run and c.words[0] not in ELSEWHERE
                         and (HAS_ONNX or 'export_onnx' not in c.text))
    assert len(here) > 20
    for text in here:
        begun = time.monotonic()
        result = subprocess.run(['bash', '-c', text], cwd=tmp_path, env=dict(os.environ, PATH=path),
                                capture_output=True, text=True)
        assert result.returncode == 0, f'{text}\n{result.stdout[-3000:]}{result.stderr[-3000:]}'
        print(f'{time.monotonic() - begun:.0f} s: {text}', flush=True)


def write_files_of_others(folder):
    for arch, windows, pretrained, name, key in (
            ('tiny', 16, 16, 'swinv2_tiny_patch4_window16_256.pth', 'microsoft'),
            ('tiny', 8, 8, 'swinv2_tiny_patch4_window8_256.pth', 'microsoft'),
            ('base', 12, 12, 'swinv2_base_patch4_window12_192_22k.pth', 'microsoft'),
            ('base', 12, 12, 'model.safetensors', 'transformers'), ('base', 12, 12, 'semi.pth', 'teacher')):
        net = SwinTransformerV2(arch, window_size=windows, out_indices=(3,))
        state, depths = net.state_dict(), net.arch.depths
        if key == 'microsoft':
            last = min(windows, 6 if arch == 'base' else 8)
            torch.save(peer_files.microsoft(state, depths, [windows] * 3 + [last], [pretrained] * 3 + [last]),
                       folder / name)
        elif key == 'transformers':
            safetensors_file.save_file({k: v.contiguous() for k, v in peer_files.transformers(state, depths).items()},
                                       folder / name)
        else:
            torch.save({f'{owner}.backbone.{k}': v for owner in ('teacher', 'student') for k, v in state.items()},
                       folder / name)
    (folder / 'map22kto1k.txt').write_text('\n'.join(str(i % 10) for i in range(1000)))
    (folder / 'my_config.py').write_text(
        "model = dict(type='ImageClassifier', backbone=dict(type='SwinTransformerV2', arch='tiny', img_size=256, "
        'window_size=[16, 16, 16, 8], out_indices=(3,)))')
