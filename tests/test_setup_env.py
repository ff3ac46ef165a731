"""The set-up: which build of mmcv a machine gets, one set-up at a time, what differs between the stacks, the pins."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import setup_env
import setup_gpu
import setup_lock
from setup_gpu import Build, Found, SetupError

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
NVCC = dict(nvcc='13.0', cuda_home='/cuda', archs=('7.5', '8.0', '9.0', '10.0'))
TORCH = dict(torch='2.13.0', torch_cuda='13.0')
CPU = Build(cuda=False)


@pytest.mark.parametrize('found, device, build', [
    (Found(), 'auto', CPU),
    (Found(**NVCC), 'auto', CPU),
    (Found(gpus=('9.0',)), 'cpu', CPU),
    (Found(gpus=('9.0',), torch='2.13.0+cpu'), 'cpu', CPU),
    (Found(gpus=('9.0',), **NVCC), 'auto', Build(True, '9.0', '/cuda')),
    (Found(gpus=('9.0',), **NVCC), 'cuda', Build(True, '9.0', '/cuda')),
    (Found(gpus=('10.0', '9.0', '9.0'), **NVCC, **TORCH), 'auto', Build(True, '9.0;10.0', '/cuda')),
    (Found(gpus=('9.0',), arch_list='8.0+PTX', **NVCC), 'auto', Build(True, '8.0+PTX', '/cuda')),
    (Found(gpus=('9.0', ''), **NVCC), 'auto', Build(True, None, '/cuda')),
    (Found(gpus=('6.1',), arch_list='7.5', **NVCC), 'auto', Build(True, '7.5', '/cuda')),
    (Found(gpus=('9.0',), nvcc='13.2', cuda_home='/cuda'), 'auto', Build(True, '9.0', '/cuda')),
    (Found(arch_list='9.0', **NVCC), 'cuda', Build(True, '9.0', '/cuda')),
])
def test_a_build_is_chosen(found, device, build):
    assert setup_gpu.decide(found, device, '13.0') == build


@pytest.mark.parametrize('found, device, message', [
    (Found(gpus=('9.0',)), 'auto', r'has a GPU \(compute capability 9.0\), and nvcc, .*CUDA_HOME'),
    (Found(gpus=('',)), 'auto', r'compute capability \?\), and nvcc'),
    (Found(), 'cuda', 'nvcc, .* is neither in'),
    (Found(gpus=('9.0',), nvcc='12.8', cuda_home='/cuda'), 'auto',
     r'nvcc must be of CUDA 13, as torch is \(CUDA 13.0\), got 12.8 in /cuda'),
    (Found(gpus=('9.0',), **NVCC, torch='2.1.2', torch_cuda='12.1'), 'auto', 'nvcc must be of CUDA 12, .* got 13.0'),
    (Found(gpus=('9.0',), **NVCC, torch='2.13.0+cpu'), 'auto',
     r'torch must be a build for CUDA because this machine has a GPU .*, got torch 2.13.0\+cpu'),
    (Found(arch_list='9.0', **NVCC, torch='2.13.0+cpu'), 'cuda', 'because --cuda was given, got'),
    (Found(gpus=('9.0',), **NVCC, **TORCH, torch_error='driver too old'), 'auto',
     'torch 2.13.0 .* must be able to use the GPU, got: driver too old'),
    (Found(gpus=('6.1', '9.0'), **NVCC), 'auto', r'that nvcc 13.0 compiles for \(7.5, .*\), got 6.1\.'),
    (Found(**NVCC), 'cuda', 'TORCH_CUDA_ARCH_LIST must name .* not set'),
])
def test_what_cannot_be_built_is_an_error_with_a_way_out(found, device, message):
    with pytest.raises(SetupError, match=rf'(?s){message}') as e:
        setup_gpu.decide(found, device, '13.0')
    assert 'TORCH_CUDA_ARCH_LIST' in str(e.value) or 'make setup SETUP_ARGS=--cpu' in str(e.value)


def test_the_ways_out_have_the_exact_pins():
    with pytest.raises(SetupError) as e:
        setup_gpu.decide(Found(gpus=('9.0',)), 'auto', '13.0')
    for pin in ('torch==2.1.2', 'mmcv==2.1.0', 'numpy==1.26.4', 'Python 3.11', 'nvcc of CUDA 13'):
        assert pin in str(e.value)
    commands = re.findall(r'^    (.*)$', str(e.value), re.MULTILINE)
    page = (ROOT / 'docs' / 'install.md').read_text()
    assert len(commands) == 3 and all(command in page for command in commands)


def test_an_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, got 'gpu'"):
        setup_gpu.decide(Found(), 'gpu', '13.0')


def test_a_build_for_cpus_sees_no_gpu_and_one_for_gpus_is_forced():
    assert CPU.environment() == dict(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    assert Build(True, None, '/cuda').environment() == dict(FORCE_CUDA='1', CUDA_HOME='/cuda')
    assert Build(True, '9.0', '/cuda').environment()['TORCH_CUDA_ARCH_LIST'] == '9.0'


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that puts programs on an otherwise empty PATH."""
    def put(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)
    for name in ('CUDA_HOME', 'CUDA_PATH', 'TORCH_CUDA_ARCH_LIST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    monkeypatch.setattr(setup_gpu, 'USUAL_HOME', str(tmp_path / 'usual'))
    return put


COMPILER = '''case $1 in
--version) echo "Cuda compilation tools, release 13.0, V13.0.88";;
--list-gpu-arch) echo compute_75; echo compute_100;; esac'''


def test_a_machine_without_a_gpu_is_seen(machine):
    assert setup_gpu.look() == Found()


def test_gpus_and_compiler_are_seen(machine, tmp_path, monkeypatch):
    machine(tmp_path / 'bin' / 'nvidia-smi', 'case $1 in --query*) echo 9.0; echo 10.0;; esac')
    machine(tmp_path / 'cuda' / 'bin' / 'nvcc', COMPILER)
    machine(tmp_path / 'cuda' / 'include' / 'cuda_runtime.h', '')
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'cuda'))
    assert setup_gpu.look() == Found(gpus=('9.0', '10.0'), nvcc='13.0', cuda_home=str(tmp_path / 'cuda'),
                                     archs=('7.5', '10.0'))


def test_a_driver_that_does_not_tell_the_capability_has_gpus_still(machine, tmp_path):
    machine(tmp_path / 'bin' / 'nvidia-smi',
            'case $1 in -L) echo "GPU 0: A (UUID: 1)"; echo "GPU 1: A (UUID: 2)";; *) exit 2;; esac')
    assert setup_gpu.look().gpus == ('', '')


def test_a_driver_that_fails_has_no_gpus(machine, tmp_path):
    machine(tmp_path / 'bin' / 'nvidia-smi', 'echo "NVIDIA-SMI has failed"; exit 9')
    assert setup_gpu.look().gpus == ()


def test_a_wrapper_of_nvcc_without_headers_is_passed_over(machine, tmp_path):
    machine(tmp_path / 'bin' / 'nvcc', COMPILER)
    assert setup_gpu.look().nvcc is None
    machine(tmp_path / 'usual' / 'bin' / 'nvcc', COMPILER)
    machine(tmp_path / 'usual' / 'targets' / 'x86_64-linux' / 'include' / 'cuda_runtime.h', '')
    assert setup_gpu.look().cuda_home == str(tmp_path / 'usual')


def test_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler -O2')
    with pytest.raises(setup_env.SetupError, match="compiler is needed .*'no-such-compiler -O2'.*build-essential"):
        setup_env.check_build_tools(tmp_path)


def test_missing_ninja_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'sh')
    with pytest.raises(setup_env.SetupError, match='ninja is needed .*ninja-build'):
        setup_env.check_build_tools(tmp_path)


def test_missing_headers_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'sh')
    monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: str(tmp_path))
    with pytest.raises(setup_env.SetupError, match="Python.h was not found.*python3-dev"):
        setup_env.check_build_tools(tmp_path)


def test_another_python_is_looked_for_and_named(monkeypatch):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match='python3.11 is needed'):
        setup_env.run_with_right_python()


def test_a_failed_pip_shows_the_end_of_its_log(monkeypatch, tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho the reason; exit 3\n')
    python.chmod(0o755)
    with pytest.raises(setup_env.SetupError, match=r'(?s)pip install x failed.*the reason'):
        setup_env.pip(python, tmp_path, 'install', 'x')


def test_progress_of_a_build_is_read_from_the_log(tmp_path):
    (tmp_path / 'log').write_bytes(b'[1/9] old\n[3/77] g++\n[4/77] g++\n')
    assert setup_env.build_progress(tmp_path / 'log', 0) == '4 of 77 files compiled, '
    assert setup_env.build_progress(tmp_path / 'log', 30) == ''


HOLD = '''import sys, time, pathlib, os
sys.path.insert(0, {tools!r})
from setup_lock import lock
with lock(pathlib.Path({path!r})) as journal:
    journal.write(str(os.getpid()))
    print("held", flush=True)
    sys.stdin.readline()
    journal.write("")
'''


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path / 'env'``."""
    code = HOLD.format(tools=str(ROOT / 'tools'), path=str(tmp_path / 'env'))
    process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate(timeout=60)


def test_a_second_set_up_says_that_it_waits(holder, tmp_path):
    code = HOLD.format(tools=str(ROOT / 'tools'), path=str(tmp_path / 'env'))
    second = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert second.stdout.readline() == \
            f'setup: waiting for another set-up of {tmp_path / "env"} (process {holder.pid})\n'
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(.3)
        holder.communicate('go on\n', timeout=60)
        assert second.stdout.readline() == 'held\n'
        second.communicate('go on\n', timeout=60)
    finally:
        second.kill()
        second.wait(60)
    with setup_lock.lock(tmp_path / 'env') as journal:
        assert not journal.cut_off


def test_a_killed_set_up_is_noticed_and_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(60)
    with setup_lock.lock(tmp_path / 'env') as journal:
        assert journal.cut_off


def test_pip_that_outlives_its_set_up_holds_the_lock(tmp_path):
    """The set-up is killed while its pip runs; the next one must not start beside that."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\ntouch "$(dirname "$0")/running"; sleep 1.5; touch "$(dirname "$0")/ended"\n')
    python.chmod(0o755)
    code = (f'import sys, pathlib; sys.path.insert(0, {str(ROOT / "tools")!r}); import setup_env, setup_lock\n'
            f'path = pathlib.Path({str(tmp_path)!r})\n'
            'with setup_lock.lock(path / "env") as journal:\n'
            '    journal.write("1"); setup_env.pip(path / "python", path, "install")')
    first = subprocess.Popen([sys.executable, '-c', code])
    deadline = time.time() + 60
    while not (tmp_path / 'running').exists() and time.time() < deadline:
        time.sleep(.02)
    first.kill()
    first.wait(60)
    assert not (tmp_path / 'ended').exists()
    with setup_lock.lock(tmp_path / 'env') as journal:
        assert journal.cut_off and (tmp_path / 'ended').exists()


@pytest.fixture
def made(monkeypatch):
    """Replaces the work by a list of what would have been done."""
    calls = []

    def make(path, name, device, build, *, anew):
        calls.append((name, device, build.cuda, anew))
        (path / 'bin').mkdir(parents=True, exist_ok=True)
        for file in ('bin/python', 'pyvenv.cfg'):
            (path / file).touch()
        (path / '.setup-device').write_text(device)
        (path / '.setup-stamp').write_text(f'{name} unfinished')
    monkeypatch.setattr(setup_env, 'make', make)
    monkeypatch.setattr(setup_gpu, 'look', lambda: Found(arch_list='9.0', **NVCC))
    monkeypatch.setattr(setup_gpu, 'find_gpus', lambda: ())
    return calls


def set_up(path, name='classic', device=None):
    with setup_lock.lock(path) as journal:
        setup_env.set_up(path, name, device, journal)


def test_it_is_done_once_and_again_when_the_choice_changes(made, tmp_path):
    for device in (None, None, 'cpu', None, 'cpu', 'cuda', None, 'auto'):
        set_up(tmp_path / 'env', device=device)
    assert made == [('classic', 'auto', False, True), ('classic', 'cpu', False, False),
                    ('classic', 'cuda', True, False), ('classic', 'auto', False, False)]


def test_another_pin_makes_it_run_again_in_the_same_environment(made, tmp_path, monkeypatch):
    for file in ('tools/setup_env.py', 'tools/setup_gpu.py', 'setup.py', *ROOT.glob('requirements/*.txt')):
        copy = tmp_path / 'root' / (ROOT / file).relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / file).read_bytes())
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path / 'root')
    set_up(tmp_path / 'env')
    with (tmp_path / 'root' / setup_env.STACKS['classic'].pins).open('a') as file:
        file.write('another==1.0\n')
    set_up(tmp_path / 'env')
    set_up(tmp_path / 'env')
    assert [anew for *_, anew in made] == [True, False]


def test_another_gpu_makes_it_run_again(made, tmp_path, monkeypatch):
    set_up(tmp_path / 'env')
    monkeypatch.setattr(setup_gpu, 'find_gpus', lambda: ('9.0',))
    monkeypatch.setattr(setup_gpu, 'look', lambda: Found(gpus=('9.0',), **NVCC))
    set_up(tmp_path / 'env')
    set_up(tmp_path / 'env')
    assert [call[2] for call in made] == [False, True]


def test_an_environment_that_was_cut_off_is_made_anew(made, tmp_path):
    set_up(tmp_path / 'env')
    (tmp_path / 'env.lock').write_text('12345')
    set_up(tmp_path / 'env')
    set_up(tmp_path / 'env')
    assert [anew for *_, anew in made] == [True, True]


def test_a_failure_of_pip_is_gone_on_from(made, tmp_path, monkeypatch):
    def fail(path, *args, **options):
        (path / 'bin').mkdir(parents=True)
        (path / 'bin' / 'python').touch()
        (path / 'pyvenv.cfg').touch()
        raise SetupError('no network')
    with monkeypatch.context() as m:
        m.setattr(setup_env, 'make', fail)
        with pytest.raises(SetupError, match='no network'):
            set_up(tmp_path / 'env')
    set_up(tmp_path / 'env')
    assert made == [('classic', 'auto', False, False)]


def test_nothing_begins_where_a_gpu_has_no_compiler(made, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_gpu, 'look', lambda: Found(gpus=('9.0',)))
    with pytest.raises(SetupError, match='and nvcc'):
        set_up(tmp_path / 'env')
    assert made == [] and not (tmp_path / 'env').exists() and (tmp_path / 'env.lock').read_text() == ''


def test_a_folder_of_something_else_is_not_cleared(made, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(SetupError, match='must be a folder that is new, empty or a virtual environment, got'):
        set_up(tmp_path)
    assert (tmp_path / 'thesis.tex').exists() and made == []


def test_the_stacks_do_not_share_a_folder(made, tmp_path):
    set_up(tmp_path / 'env')
    with pytest.raises(SetupError, match='must have a folder each, got .* for onedl, which has classic'):
        set_up(tmp_path / 'env', 'onedl')
    assert len({stack.folder for stack in setup_env.STACKS.values()}) == len(setup_env.STACKS) == 2


def pins(name):
    """Version by distribution of a requirements file, which pins every line."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith('#')]
    found = [re.fullmatch(r'([\w.-]+)==([\w.]+)', line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found) if not match]
    return {match[1].lower(): match[2] for match in found}


@pytest.mark.parametrize('name, packages', [
    ('classic', ['mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'openmim']),
    ('onedl', ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mim']),
])
def test_every_version_of_a_stack_is_pinned_once(name, packages):
    stack = setup_env.STACKS[name]
    versions, build = pins(stack.pins), pins(setup_env.BUILD)
    assert {*packages, 'numpy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'execnet'} <= set(versions)
    assert not set(versions) & set(build) and {'torch', 'setuptools', 'ninja'} <= set(build)
    assert setup_env.pin(stack.pins, stack.mmcv) == f'{stack.mmcv}=={versions[stack.mmcv]}'


def test_the_stacks_differ_in_openmmlab_and_in_what_it_asks_for_only():
    classic, onedl = pins('requirements/classic.txt'), pins('requirements/onedl.txt')
    test_tools = ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'mypy', 'ruff', 'safetensors',
                  'transformers']
    assert {n: classic[n] for n in test_tools} == {n: onedl[n] for n in test_tools}


def test_extras_and_messages_have_the_pinned_versions():
    classic, onedl = pins('requirements/classic.txt'), pins('requirements/onedl.txt')
    extras = (ROOT / 'setup.py').read_text()
    for name, version in [(n, classic[n]) for n in ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation')] + [
            (n, v) for n, v in onedl.items() if n.startswith('onedl-')]:
        assert f"'{name}=={version}'" in extras
    page = (ROOT / 'docs' / 'install.md').read_text()
    for versions, names in ((classic, ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'openmim', 'numpy')),
                            (onedl, [n for n in onedl if n.startswith('onedl-')] + ['numpy'])):
        assert all(f'{n} {versions[n]}' in page for n in names)


def test_tools_of_development_have_one_version():
    """In the stacks, beside the core alone, and in the hooks of pre-commit."""
    classic, core = pins('requirements/classic.txt'), (ROOT / 'requirements' / 'core.txt').read_text().splitlines()
    names = ('mypy', 'pytest', 'pytest-timeout', 'pytest-xdist', 'ruff')
    assert {f'{name}=={classic[name]}' for name in names} <= set(core)
    assert f'torch=={pins(setup_env.BUILD)["torch"]}' in core
    assert f'ruff=={classic["ruff"]}' in (ROOT / '.pre-commit-config.yaml').read_text()


def test_a_version_is_said_alike():
    said = re.search(r"__version__ = '(.+)'", (ROOT / 'mmswinv2' / 'version.py').read_text())[1]
    assert re.search(r'^version: (.+)$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE)[1] == said
    dated = re.findall(r'^## \[(.+)\] - \d{4}-\d\d-\d\d$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert dated[0] == said


def test_the_dockerfile_has_the_pins_of_the_requirements():
    """It installs through the set-up alone, so that there is nothing to keep equal but Python and CUDA."""
    text = '\n'.join(line for line in (ROOT / 'Dockerfile').read_text().splitlines() if not line.startswith('#'))
    arguments = dict(re.findall(r'^ARG (\w+)=(\S+)', text, re.MULTILINE))
    assert arguments['PYTHON'] == '{}.{}'.format(*setup_env.PYTHON)
    assert arguments['CUDA'] == setup_env.TORCH_CUDA
    assert arguments['TORCH'] == pins(setup_env.BUILD)['torch']
    assert 'tools/setup_env.py --stack ${STACK} --cuda' in text
    assert not re.search(r'pip3? install|==', text)
    copied = re.findall(r'^COPY (?!--from)(.*) \S+$', text, re.MULTILINE)
    assert copied == ['.']


def test_make_passes_options_to_both_set_ups():
    for stack in setup_env.STACKS:
        target = 'setup' if stack == 'classic' else f'setup-{stack}'
        command = ['make', '--no-print-directory', '-n', target, 'SETUP_ARGS=--cpu']
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, MAKEFLAGS=''),
                               check=True).stdout
        assert shown.split()[1:] == ['tools/setup_env.py', '--stack', stack, '--cpu']


@pytest.mark.parametrize('built_for_cuda, torchvision', [
    ('True', 'torchvision==0.28.0'), ('False', 'torchvision==0.15.2')])
def test_torchvision_is_one_that_can_be_imported_beside_torch(built_for_cuda, torchvision, tmp_path, monkeypatch):
    calls, ends = [], iter([(0, built_for_cuda), (0, ''), (0, built_for_cuda), (1, '')])

    def run(python, code):
        code, out = next(ends)
        return subprocess.CompletedProcess([], code, out, 'operator torchvision::nms does not exist')
    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env, 'pip', lambda *args: calls.append(args[2:]))
    setup_env.install_more_hosts(Path('python'), tmp_path)
    assert calls == [('install', '--no-deps', '-r', str(ROOT / setup_env.MORE_HOSTS), torchvision)]
    with pytest.raises(SetupError, match=f'(?s){torchvision} must be importable beside torch, .*torchvision::nms'):
        setup_env.install_more_hosts(Path('python'), tmp_path)
