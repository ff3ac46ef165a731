"""The set-up: which build of mmcv a machine gets, when it runs again, what is refused, and the pins."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import setup_env
from setup_env import SetupError

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that puts programs on an otherwise empty PATH."""
    def put(name, text):
        path = tmp_path / 'cuda' / 'bin' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)
    for name in ('CUDA_HOME', 'TORCH_CUDA_ARCH_LIST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(tmp_path / 'cuda' / 'bin'))
    return put


@pytest.mark.parametrize('script, gpus', [
    (None, []), ('echo 9.0; echo 10.0; echo 9.0', ['10.0', '9.0']), ('echo "[N/A]"', ['']),
    ('echo failed; exit 9', [])])
def test_gpus_are_those_that_the_driver_tells(machine, script, gpus):
    if script:
        machine('nvidia-smi', script)
    assert setup_env.find_gpus() == gpus


def test_mmcv_is_built_for_the_gpu_that_is_there(machine, tmp_path, monkeypatch):
    machine('nvcc', 'echo "Cuda compilation tools, release 13.0, V13.0.88"')
    home = dict(FORCE_CUDA='1', CUDA_HOME=str(tmp_path / 'cuda'), NVCC='13')
    assert setup_env.cuda_variables(['10.0', '9.0']) == dict(home, TORCH_CUDA_ARCH_LIST='10.0;9.0')
    with pytest.raises(SetupError, match='TORCH_CUDA_ARCH_LIST must name .* not set'):
        setup_env.cuda_variables([''])
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0+PTX')
    assert setup_env.cuda_variables([]) == dict(home, TORCH_CUDA_ARCH_LIST='8.0+PTX')


def test_without_nvcc_the_ways_out_are_those_of_the_page(machine, monkeypatch):
    monkeypatch.setattr(Path, 'is_file', lambda path: False)
    with pytest.raises(SetupError, match='(?s)by nvcc, which is neither in .*SETUP_ARGS=--cpu') as e:
        setup_env.cuda_variables(['9.0'])
    monkeypatch.undo()
    commands = re.findall(r'^    (.*)$', str(e.value), re.MULTILINE)
    page = (ROOT / 'docs' / 'install.md').read_text()
    assert len(commands) == 3 and all(command in page for command in commands)


@pytest.mark.parametrize('compiler, headers, message', [
    ('no-such-compiler -O2', None, 'compiler is needed .*build-essential'),
    ('sh', '/nowhere', 'headers .*python3-dev')])
def test_what_a_build_needs_is_named(compiler, headers, message, monkeypatch):
    monkeypatch.setenv('CXX', compiler)
    if headers:
        monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: headers)
    with pytest.raises(SetupError, match=message):
        setup_env.check_tools()


def test_a_failed_pip_shows_the_end_of_its_log(tmp_path):
    python = tmp_path / 'bin' / 'python'
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho the reason; exit 3\n')
    python.chmod(0o755)
    with pytest.raises(SetupError, match=r'(?s)pip install x failed; the end of .*setup.log:\nthe reason'):
        setup_env.pip(python, 'x')


@pytest.fixture
def steps(monkeypatch):
    """Replaces pip and Python by a list of what would have been done."""
    done = []

    def create(path, with_pip, clear):
        done.append('anew' if clear else 'venv')
        (path / 'bin').mkdir(parents=True, exist_ok=True)
        for file in ('bin/python', 'pyvenv.cfg'):
            (path / file).touch()
    monkeypatch.setattr(setup_env.venv, 'create', create)
    monkeypatch.setattr(setup_env, 'pip', lambda python, *args, **_: done.append(Path(str(args[-1])).name))
    monkeypatch.setattr(setup_env, 'run', lambda python, code: '')
    monkeypatch.setattr(setup_env, 'check_tools', lambda: None)
    monkeypatch.setattr(setup_env, 'find_gpus', lambda: [])
    return done


@pytest.mark.parametrize('stack, mmcv', [('classic', 'mmcv'), ('onedl', 'onedl-mmcv')])
def test_the_steps_are_done_once_and_again_when_the_choice_changes(stack, mmcv, steps, tmp_path):
    for device in (None, None, 'cpu', None, 'cpu', 'auto'):
        setup_env.set_up(tmp_path / 'env', stack, device)
    pinned = f'{mmcv}=={pins(f"requirements/{stack}.txt")[mmcv]}'
    once = ['venv', f'{stack}.txt', pinned, f'{stack}.txt', 'torchvision==0.15.2', 'triton.txt', ROOT.name]
    assert steps == 3 * once


def test_a_build_for_cuda_brings_triton_and_has_its_own_torchvision(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, 'run', lambda python, code: '13.0\n')
    monkeypatch.setattr(setup_env, 'cuda_variables', lambda gpus: dict(NVCC='13'))
    setup_env.set_up(tmp_path / 'env', 'classic', 'cuda')
    assert 'torchvision==0.28.0' in steps and 'triton.txt' not in steps
    monkeypatch.setattr(setup_env, 'cuda_variables', lambda gpus: dict(NVCC='12'))
    with pytest.raises(SetupError, match='nvcc must be of the CUDA that torch is built for, 13.0, got another'):
        setup_env.set_up(tmp_path / 'another', 'classic', 'cuda')


def test_one_that_was_interrupted_is_made_anew(steps, tmp_path, monkeypatch):
    def interrupted(*args, **_):
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(setup_env, 'pip', interrupted)
        with pytest.raises(KeyboardInterrupt):
            setup_env.set_up(tmp_path / 'env', 'classic', 'cpu')
    setup_env.set_up(tmp_path / 'env', 'classic', None)
    setup_env.set_up(tmp_path / 'env', 'classic', None)
    assert [step for step in steps if step in ('venv', 'anew')] == ['venv', 'anew']
    assert (tmp_path / 'env' / '.setup-stamp').read_text().startswith('classic cpu ')


def test_a_folder_of_something_else_is_not_cleared(steps, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(SetupError, match='must be new or one of the stack classic, got'):
        setup_env.set_up(tmp_path, 'classic', None)
    assert (tmp_path / 'thesis.tex').exists() and steps == []


def test_the_stacks_do_not_share_a_folder(steps, tmp_path):
    setup_env.set_up(tmp_path / 'env', 'classic', None)
    with pytest.raises(SetupError, match='must be new or one of the stack onedl, got'):
        setup_env.set_up(tmp_path / 'env', 'onedl', None)


@pytest.mark.parametrize('version', [(3, 9), (3, 14)])
def test_another_python_is_refused_with_those_that_are_not(version, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env.sys, 'version_info', version)
    with pytest.raises(SetupError, match='Python must be 3.10 to 3.13, got .*make PYTHON=FILE'):
        setup_env.set_up(tmp_path / 'env', 'classic', None)


def test_a_function_reads_what_exec_has_set_as_before_python_3_13(tmp_path):
    """mmcv's setup.py does."""
    (tmp_path / 'sitecustomize.py').write_text(setup_env.EXEC_SETS_LOCALS)
    code = "def f():\n    exec('a = 1')\n    return locals()['a']\nassert f() == 1"
    subprocess.run([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=str(tmp_path)), check=True)


def pins(name):
    """Version by distribution of a requirements file, which pins every line; of one with markers, for Python 3.11."""
    lines = [line for line in (ROOT / name).read_text().splitlines()
             if line and not line.startswith('#') and 'python_version < "3.11"' not in line]
    found = [re.fullmatch(r'([\w.-]+)==([\w.]+)(; python_version >= "3.11")?', line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found) if not match]
    return {match[1].lower(): match[2] for match in found}


@pytest.mark.parametrize('name, packages', [
    ('classic', ['mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'openmim']),
    ('onedl', ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mim']),
])
def test_every_version_of_a_stack_is_pinned_once(name, packages):
    versions, build = pins(f'requirements/{name}.txt'), pins('requirements/build.txt')
    assert {*packages, 'numpy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'execnet'} <= set(versions)
    assert not set(versions) & set(build) and {'torch', 'setuptools', 'ninja'} <= set(build)


def test_extras_and_messages_have_the_pinned_versions():
    classic, onedl = pins('requirements/classic.txt'), pins('requirements/onedl.txt')
    onedl |= {n: v for n, v in pins('requirements/more_onedl.txt').items() if n.startswith('onedl-')}
    extras = (ROOT / 'setup.py').read_text()
    for name, version in [(n, classic[n]) for n in ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation')] + [
            (n, v) for n, v in onedl.items() if n.startswith('onedl-')]:
        assert f"'{name}=={version}'" in extras
    page = (ROOT / 'docs' / 'install.md').read_text()
    for versions, names in ((classic, ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'openmim', 'numpy')),
                            (onedl, [n for n in onedl if n.startswith('onedl-')] + ['numpy'])):
        assert all(f'{n} {versions[n]}' in page for n in names)


def test_tools_of_development_have_one_version():
    """In both stacks, beside the core alone, and in the hooks of pre-commit."""
    classic, onedl = pins('requirements/classic.txt'), pins('requirements/onedl.txt')
    core = (ROOT / 'requirements' / 'core.txt').read_text().splitlines()
    names = ('mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff')
    assert {f'{name}=={classic[name]}' for name in names} <= set(core)
    assert [classic[n] == onedl[n] for n in (*names, 'hypothesis', 'safetensors', 'transformers')] == [True] * 8
    assert f'torch=={pins("requirements/build.txt")["torch"]}' in core
    assert f'ruff=={classic["ruff"]}' in (ROOT / '.pre-commit-config.yaml').read_text()


def test_a_version_is_said_alike():
    said = re.search(r"__version__ = '(.+)'", (ROOT / 'mmswinv2' / 'version.py').read_text())[1]
    assert re.search(r'^version: (.+)$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE)[1] == said
    dated = re.findall(r'^## \[(.+)\] - \d{4}-\d\d-\d\d$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert dated[0] == said


def test_the_dockerfile_installs_through_the_set_up_alone():
    text = '\n'.join(line for line in (ROOT / 'Dockerfile').read_text().splitlines() if not line.startswith('#'))
    assert re.search(r'^ARG TORCH=(\S+)', text, re.MULTILINE)[1] == pins('requirements/build.txt')['torch']
    assert 'tools/setup_env.py --stack ${STACK} --cuda' in text and not re.search(r'pip3? install|==', text)


def test_make_passes_options_to_both_set_ups():
    for stack in setup_env.STACKS:
        target = 'setup' if stack == 'classic' else f'setup-{stack}'
        command = ['make', '--no-print-directory', '-n', target, 'SETUP_ARGS=--cpu']
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, MAKEFLAGS=''),
                               check=True).stdout
        assert shown.split()[1:] == ['tools/setup_env.py', '--stack', stack, '--cpu']
