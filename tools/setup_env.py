#!/usr/bin/env python3
"""Makes ``.venv`` with the classic OpenMMLab stack, or ``.venv-onedl`` with the maintained forks, pinned.

It does nothing when the environment is up to date. Only the standard library is used: this runs before anything is
installed. The long part is mmcv, which has no wheel for current torch: its operators are compiled once (5 to 30
minutes on two cores, longer with those for GPUs), after which pip keeps the wheel of a build for CPUs in its cache.

One set-up at a time works on an environment and others wait. An environment whose set-up was killed is made anew.
"""
from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import setup_gpu
from setup_gpu import Build, SetupError
from setup_lock import Journal, lock, say

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (3, 11)
TORCH_CUDA = '13.0'  # what PyPI's wheel of the torch in requirements/build.txt is built for
BUILD = 'requirements/build.txt'
TRITON = 'requirements/triton.txt'
MORE_HOSTS = 'requirements/more_hosts.txt'
# by whether torch is built for CUDA. PyPI has torchvision for CUDA builds of torch alone: beside another, the one that
# matches cannot be imported ("operator torchvision::nms does not exist"), and MMEngine imports it in every run. 0.15.2
# is the last whose Python part works without its compiled one; nothing here uses more.
TORCHVISION = {True: 'torchvision==0.28.0', False: 'torchvision==0.15.2'}
HOSTS = 'mmcv.ops, mmdet, mmseg, mim, mmswinv2.engine.setup, mmswinv2.models'
MODULES = dict(
    classic=f'{HOSTS}, mmpretrain.models, mmpretrain.datasets, mmaction.models, mmaction.datasets', onedl=HOSTS)


@dataclass(frozen=True)
class Stack:
    """What differs between the stacks.

    Attributes:
        folder: Where the environment is made.
        mmcv: Name of mmcv's distribution.
        pins: The file with every version that requirements/build.txt does not have.
    """
    folder: str
    mmcv: str
    pins: str


STACKS = dict(
    classic=Stack(folder='.venv', mmcv='mmcv', pins='requirements/classic.txt'),
    onedl=Stack(folder='.venv-onedl', mmcv='onedl-mmcv', pins='requirements/onedl.txt'),
)


def main() -> int:
    """Runs the set-up; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stack', choices=STACKS, default='classic', help='which packages (default classic)')
    parser.add_argument('--venv', type=Path, help='where the environment is made (default .venv or .venv-onedl)')
    device = parser.add_mutually_exclusive_group()
    for name, text in (('cpu', 'mmcv without operators for GPUs; remembered, as are the next two'),
                       ('cuda', 'with them, also where no GPU is seen'),
                       ('auto', 'with them where there is a GPU (the default)')):
        device.add_argument(f'--{name}', dest='device', action='store_const', const=name, help=text)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception ends pip, too
    path = (args.venv or ROOT / STACKS[args.stack].folder).absolute()
    try:
        if sys.version_info[:2] != PYTHON:
            run_with_right_python()
        with lock(path) as journal:
            set_up(path, args.stack, args.device, journal)
    except SetupError as e:
        print(f'setup: {e}', file=sys.stderr)
        return 1
    return 0


def run_with_right_python() -> None:
    """Replaces this process by one of the Python that the pins are for."""
    name = 'python{}.{}'.format(*PYTHON)
    found = shutil.which(name)
    if found is None:
        raise SetupError(f'{name} is needed (the versions in requirements/ are resolved for it), and is not on the '
                         f'PATH; this is Python {sys.version.split()[0]}')
    os.execv(found, [found, *sys.argv])


def set_up(path: Path, name: str, device: str | None, journal: Journal) -> None:
    """Makes the environment at ``path``, unless it is there and made of the same inputs.

    Args:
        path: Where.
        name: Key of :data:`STACKS`.
        device: One of :data:`setup_gpu.DEVICES`; None: as the last time, at first ``'auto'``.
        journal: That of ``path``, which the caller has locked.
    """
    python, stamp = path / 'bin' / 'python', path / '.setup-stamp'
    remembered = path / '.setup-device'
    device = device or (remembered.read_text() if remembered.is_file() else 'auto')
    wanted = f'{name} {fingerprint(path, name, device)}'
    made = stamp.read_text() if stamp.is_file() else ''
    if made == wanted and python.exists() and not journal.cut_off:
        return
    if not journal.cut_off:  # else it was checked then
        check_folder(path, name, made)
    build = setup_gpu.decide(setup_gpu.look(), device, TORCH_CUDA)
    journal.write(str(os.getpid()))
    try:
        make(path, name, device, build, anew=journal.cut_off or not python.exists())
    except SetupError:  # pip ended in order: the next set-up goes on from here
        journal.write('')
        raise
    stamp.write_text(wanted)
    journal.write('')


def check_folder(path: Path, name: str, made: str) -> None:
    """Refuses a folder that is something else, which would be cleared or mixed up.

    Raises:
        SetupError: if ``path`` is no virtual environment, or one of another stack.
    """
    if path.exists() and not (path / 'pyvenv.cfg').is_file() and any(path.iterdir()):
        raise SetupError(f'the environment must be a folder that is new, empty or a virtual environment, got {path}; '
                         'remove it or choose another with --venv')
    other = made.split(' ')[0]
    if other in STACKS and other != name:
        raise SetupError(f'the stacks share import names and must have a folder each, got {path} for {name}, which has '
                         f'{other}; remove it or choose another with --venv')


def make(path: Path, name: str, device: str, build: Build, *, anew: bool) -> None:
    """Makes the environment, or brings it up to date."""
    stack, python, start = STACKS[name], path / 'bin' / 'python', time.time()
    pins = ROOT / stack.pins
    say(f'making {path.name} ({name}, {"CUDA" if build.cuda else "CPU"}) for Python {sys.version.split()[0]}')
    if anew:
        try:
            venv.create(path, with_pip=True, clear=path.exists())
        except subprocess.CalledProcessError as e:
            raise SetupError(f'python could not make a virtual environment ({e}); on Debian and Ubuntu install '
                             'python3-venv') from e
    (path / '.setup-stamp').write_text(f'{name} unfinished')
    (path / '.setup-device').write_text(device)
    say('1 of 5: torch and build tools')
    pip(python, path, 'install', '-r', str(ROOT / BUILD), '-c', str(pins))
    if build.cuda:
        build = setup_gpu.decide(look_at_torch(python, setup_gpu.look()), device, TORCH_CUDA)
    say('2 of 5: mmcv with its operators')
    install_mmcv(python, path, stack, build)
    say('3 of 5: mmengine, mmdet, mmsegmentation, mim and test tools')
    pip(python, path, 'install', '-r', str(pins))
    if run(python, 'import triton').returncode:
        pip(python, path, 'install', '--no-deps', '-r', str(ROOT / TRITON))
    say('4 of 5: ' + ('mmpretrain and mmaction2' if name == 'classic' else 'nothing; other hosts are for the classic '
                      'stack'))
    if name == 'classic':
        install_more_hosts(python, path)
    say('5 of 5: this project, in place')
    pip(python, path, 'install', '--no-deps', '--no-build-isolation', '-e', str(ROOT))
    result = run(python, f'import {MODULES[name]}')
    if result.returncode:
        raise SetupError(f'the environment was made but does not work: import {MODULES[name]}\n{result.stderr.strip()}')
    say(f'done in {minutes(time.time() - start)}')


def fingerprint(path: Path, name: str, device: str) -> str:
    """What the environment is made of, as a hash: a change of it makes the set-up run again."""
    gpus = sorted(set(setup_gpu.find_gpus())) if device == 'auto' else ''
    digest = hashlib.sha256(f'{sys.version} {path} {device} {gpus}'.encode())
    for file in ('tools/setup_env.py', 'tools/setup_gpu.py', 'setup.py', BUILD, TRITON, MORE_HOSTS, STACKS[name].pins):
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()


def look_at_torch(python: Path, found: setup_gpu.Found) -> setup_gpu.Found:
    """Adds the installed torch to what was found, and whether it can use the GPUs."""
    result = run(python, 'import torch; print(torch.__version__, torch.version.cuda)')
    if result.returncode:
        raise SetupError(f'torch was installed but does not work:\n{result.stderr.strip()}')
    version, cuda = result.stdout.split()
    error = None
    if found.gpus and cuda != 'None':
        start = run(python, 'import torch; torch.cuda.init()')
        error = start.stderr.strip().splitlines()[-1] if start.returncode else None
    return dataclasses.replace(found, torch=version, torch_cuda=None if cuda == 'None' else cuda, torch_error=error)


def install_mmcv(python: Path, path: Path, stack: Stack, build: Build) -> None:
    """Installs mmcv, building it unless it is there or, for CPUs, pip has its wheel in the cache."""
    pinned = pin(stack.pins, stack.mmcv)
    note = path / '.setup-mmcv'  # what the operators are compiled for
    wanted = f'cuda {build.arch_list}' if build.cuda else 'cpu'
    check = (f'import importlib.metadata as m; print("{stack.mmcv}==" + m.version("{stack.mmcv}"), flush=True);'
             'import mmcv.ops')
    there = run(python, check)
    if there.stdout.strip() == pinned and there.returncode == 0 and wanted == (
            note.read_text() if note.is_file() else 'cpu'):
        return
    check_build_tools(path)
    say('   this compiles its operators for CPUs and GPUs, once: half an hour or more' if build.cuda else
        '   if pip has no cached wheel of it, this compiles 78 C++ files: 5 to 30 minutes on two cores, once')
    install = ['install', '-v', '--no-build-isolation', '-c', str(ROOT / stack.pins), pinned]
    replace = ['--force-reinstall', '--no-deps'] if there.stdout else []
    cache = ['--no-cache-dir'] if build.cuda else []  # a wheel's name does not tell what it was built for
    pip(python, path, *install, *cache, *replace, progress=True, variables=build.environment())
    if not build.cuda and run(python, check).returncode:
        say('   the wheel in the cache was built with another torch; building it anew')
        pip(python, path, *install, '--no-cache-dir', '--force-reinstall', '--no-deps', progress=True,
            variables=build.environment())
    note.write_text(wanted)


def install_more_hosts(python: Path, path: Path) -> None:
    """Installs mmpretrain, mmaction2, what they import, and a torchvision that can be imported beside this torch.

    Raises:
        SetupError: if torchvision cannot be imported: it would end every run of any host.
    """
    result = run(python, 'import torch; print(torch.version.cuda is not None)')
    if result.returncode:
        raise SetupError(f'torch was installed but does not work:\n{result.stderr.strip()}')
    torchvision = TORCHVISION[result.stdout.strip() == 'True']
    pip(python, path, 'install', '--no-deps', '-r', str(ROOT / MORE_HOSTS), torchvision)
    result = run(python, 'import torchvision')
    if result.returncode:
        raise SetupError(f'{torchvision} must be importable beside torch, or no run of MMEngine starts:\n'
                         f'{result.stderr.strip()}')


def pin(file: str, name: str) -> str:
    """The line of a requirements file with this distribution, as ``name==version``."""
    return re.search(rf'^{re.escape(name)}==\S+', (ROOT / file).read_text(), re.MULTILINE).group()


def check_build_tools(path: Path) -> None:
    """Checks for a C++ compiler, Python's headers and ninja."""
    compiler = os.environ.get('CXX', 'c++')
    if shutil.which(compiler.split()[0]) is None:
        raise SetupError(f'a C++ compiler is needed to build mmcv, and {compiler!r} is not on the PATH; install one '
                         '(Debian and Ubuntu: apt-get install build-essential), or set CXX')
    if not (Path(sysconfig.get_path('include')) / 'Python.h').is_file():
        raise SetupError("Python's headers are needed to build mmcv, and Python.h was not found; install them "
                         '(Debian and Ubuntu: apt-get install python3-dev)')
    ninja = path / 'bin' / 'ninja'
    try:
        subprocess.run([ninja, '--version'], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SetupError(f'ninja is needed to build mmcv, and {ninja} does not run ({e}); install it '
                         '(Debian and Ubuntu: apt-get install ninja-build)') from e


def run(python: Path, code: str) -> subprocess.CompletedProcess:
    """Runs a line of Python in the environment."""
    return subprocess.run([python, '-W', 'ignore', '-c', code], capture_output=True, text=True)


def pip(python: Path, path: Path, *args: str, progress: bool = False, variables: dict[str, str] | None = None) -> None:
    """Runs pip with its output in a log; with ``progress``, says now and then how far a build is."""
    env = dict(os.environ, PATH=f'{path / "bin"}{os.pathsep}{os.environ.get("PATH", "")}', PYTHONNOUSERSITE='1',
               MMCV_WITH_OPS='1', CFLAGS=f'{os.environ.get("CFLAGS", "")} -g0'.strip(),
               MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count() or 1)), **variables or {})
    log = path / 'setup.log'
    with log.open('ab') as out:
        out.write(f'\n$ pip {" ".join(args)}\n'.encode())
        out.flush()
        begin = out.tell()
        process = subprocess.Popen([python, '-m', 'pip', '--disable-pip-version-check', *args], env=env, stdout=out,
                                   stderr=subprocess.STDOUT, close_fds=False)  # it holds the lock, too
        start = told = time.time()
        try:
            while process.poll() is None:
                time.sleep(.2)
                if progress and time.time() - told >= 30:
                    told = time.time()
                    say(f'   {build_progress(log, begin)}{minutes(told - start)} so far')
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        tail = log.read_bytes()[begin:].decode(errors='replace').strip().splitlines()[-25:]
        raise SetupError(f'pip {" ".join(args)} failed; the end of {log}:\n' + '\n'.join(tail))


def build_progress(log: Path, begin: int) -> str:
    """How many files ninja has compiled, in words."""
    steps = re.findall(rb'\[(\d+)/(\d+)\]', log.read_bytes()[begin:])
    return '{} of {} files compiled, '.format(*(n.decode() for n in steps[-1])) if steps else ''


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f'{int(seconds) // 60} min {int(seconds) % 60:02d} s' if seconds >= 60 else f'{seconds:.0f} s'


if __name__ == '__main__':
    sys.exit(main())
