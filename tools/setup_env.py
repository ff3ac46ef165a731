#!/usr/bin/env python3
"""Makes ``.venv`` with the classic OpenMMLab stack, or ``.venv-onedl`` with the maintained forks, pinned.

It does nothing when the environment is up to date; one whose set-up was interrupted is made anew. Only the standard
library is used, with Python 3.10 to 3.13. The long part is mmcv, which has no wheel for current torch: its operators
are compiled once (5 to 30 minutes on two cores, longer with those for GPUs). pip keeps the wheel of a build for CPUs.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = (3, 10), (3, 13)
HOSTS = 'mmcv.ops, mmdet, mmseg, mim, mmswinv2.engine.setup, mmswinv2.models, mmpretrain.models, mmpretrain.datasets'
# by stack: the folder, the distribution of mmcv, what must be importable
STACKS = dict(classic=('.venv', 'mmcv', f'{HOSTS}, mmaction.models, mmaction.datasets'),
              onedl=('.venv-onedl', 'onedl-mmcv', HOSTS))
INPUTS = ('tools/setup_env.py', 'setup.py', 'requirements/build.txt', 'requirements/triton.txt')
# by whether torch is built for CUDA. PyPI has torchvision for such builds alone: beside another, the one that matches
# cannot be imported ("operator torchvision::nms does not exist"), and MMEngine imports it in every run. 0.15.2 is the
# last whose Python part works without its compiled one; nothing here uses more.
TORCHVISION = {True: 'torchvision==0.28.0', False: 'torchvision==0.15.2'}
# mmcv's setup.py reads a variable that exec() has set in a function, which Python 3.13 no longer allows
EXEC_SETS_LOCALS = '''import builtins, sys
run = builtins.exec
def exec(code, *names):
    frame = sys._getframe(1)
    run(code, *(names or (frame.f_globals, frame.f_locals)))
builtins.exec = exec
'''
HELP = '''
One of these helps (docs/install.md):
- install the nvcc of the CUDA that torch is built for, and set CUDA_HOME or put it on the PATH
- use a torch that OpenMMLab publishes mmcv for, in an environment of your own with Python 3.11:
    pip install torch==2.1.2 numpy==1.26.4 'setuptools>=77,<82' openmim
    mim install mmcv==2.1.0
    pip install '.[classic]' numpy==1.26.4
- build for the CPU alone: make setup SETUP_ARGS=--cpu'''


class SetupError(Exception):
    """Something the user has to put right; the message says what."""


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
    try:
        set_up((args.venv or ROOT / STACKS[args.stack][0]).absolute(), args.stack, args.device)
    except SetupError as e:
        print(f'setup: {e}', file=sys.stderr)
        return 1
    return 0


def set_up(path: Path, name: str, device: str | None) -> None:
    """Makes the environment of a stack at ``path``, unless it is there and made of the same inputs.

    Without a ``device`` it is that of the last time, at first ``'auto'``.
    """
    stamp, python, start = path / '.setup-stamp', path / 'bin' / 'python', time.time()
    made = stamp.read_text().split() if stamp.is_file() else []  # stack, device, what it is made of or "unfinished"
    device = device or (made[1] if len(made) == 3 else 'auto')
    gpus = find_gpus() if device == 'auto' else []
    cuda = device == 'cuda' or bool(gpus)
    files = [ROOT / file for file in (*INPUTS, f'requirements/{name}.txt', f'requirements/more_{name}.txt')]
    text = f'{sys.version} {path} {gpus}'.encode() + b''.join(file.read_bytes() for file in files)
    wanted = [name, device, hashlib.sha256(text).hexdigest()]
    if made == wanted and python.exists():
        return
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise SetupError('Python must be {}.{} to {}.{}, got {}; make PYTHON=FILE takes another'.format(
            *PYTHONS[0], *PYTHONS[1], sys.version.split()[0]))
    other = path.is_dir() and any(path.iterdir()) and not (path / 'pyvenv.cfg').is_file()
    if other or made and made[0] != name:
        raise SetupError(f'the environment must be new or one of the stack {name}, got {path}; remove it, or choose '
                         'another with --venv')
    check_tools()
    variables = cuda_variables(gpus) if cuda else dict(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    say(f'making {path.name} ({name}, {"CUDA" if cuda else "CPU"}) for Python {sys.version.split()[0]}')
    venv.create(path, with_pip=True, clear=made[2:] == ['unfinished'])
    stamp.write_text(f'{name} {device} unfinished')
    pins = ROOT / f'requirements/{name}.txt'
    say('1 of 5: torch and build tools')
    pip(python, '-r', ROOT / 'requirements/build.txt', '-c', pins)
    built = run(python, 'import torch; print(torch.version.cuda or "")').strip()
    if cuda and built.split('.')[0] != variables.pop('NVCC'):
        raise SetupError(f'nvcc must be of the CUDA that torch is built for, {built or "none"}, got another.{HELP}')
    say(f'2 of 5: mmcv with its operators: if pip has no wheel of it, 78 C++ files are compiled ({path}/setup.log)')
    install_mmcv(python, STACKS[name][1], pins, variables, cuda)
    say('3 of 5: mmengine, mmdet, mmsegmentation, mim and test tools')
    pip(python, '-r', pins)
    say('4 of 5: mmpretrain, mmaction2, Triton')
    pip(python, '--no-deps', '-r', ROOT / f'requirements/more_{name}.txt', TORCHVISION[bool(built)])
    if not built:  # builds for CUDA bring it
        pip(python, '--no-deps', '-r', ROOT / 'requirements/triton.txt')
    say('5 of 5: this project, in place')
    pip(python, '--no-deps', '--no-build-isolation', '-e', ROOT)
    run(python, f'import {STACKS[name][2]}')
    stamp.write_text(' '.join(wanted))
    say(f'done in {(time.time() - start) / 60:.1f} min')


def find_gpus() -> list[str]:
    """Compute capability of each NVIDIA GPU; one empty text where the driver does not tell."""
    if shutil.which('nvidia-smi') is None:
        return []
    told = subprocess.run(['nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader'], capture_output=True,
                          text=True)
    return sorted(set(re.findall(r'^\d+\.\d+$', told.stdout, re.M))) or [''] * (told.returncode == 0)


def cuda_variables(gpus: list[str]) -> dict[str, str]:
    """Variables of mmcv's build with operators for GPUs, and the major version of CUDA under ``NVCC``."""
    homes = [os.environ.get('CUDA_HOME'), shutil.which('nvcc') and Path(shutil.which('nvcc')).resolve().parents[1],
             '/usr/local/cuda']
    home = next((Path(h) for h in homes if h and Path(h, 'bin', 'nvcc').is_file()), None)
    if home is None:
        raise SetupError('mmcv is compiled for the GPU by nvcc, which is neither in $CUDA_HOME/bin nor on the PATH nor '
                         f'in /usr/local/cuda/bin.{HELP}')
    version = subprocess.run([home / 'bin' / 'nvcc', '--version'], capture_output=True, text=True).stdout
    archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(filter(None, gpus))
    if not archs:
        raise SetupError('TORCH_CUDA_ARCH_LIST must name the compute capabilities to compile for, such as "8.0;9.0", '
                         'where no GPU tells its own; it is not set')
    return dict(FORCE_CUDA='1', CUDA_HOME=str(home), TORCH_CUDA_ARCH_LIST=archs,
                NVCC=re.search(r'release (\d+)|$', version)[1] or '')


def check_tools() -> None:
    """Checks for a C++ compiler and Python's headers, which mmcv's build needs."""
    if shutil.which(os.environ.get('CXX', 'c++').split()[0]) is None:
        raise SetupError('a C++ compiler is needed to build mmcv (Debian and Ubuntu: apt-get install build-essential)')
    if not Path(sysconfig.get_path('include'), 'Python.h').is_file():
        raise SetupError("Python's headers are needed to build mmcv (Debian and Ubuntu: apt-get install python3-dev)")


def install_mmcv(python: Path, distribution: str, pins: Path, variables: dict[str, str], cuda: bool) -> None:
    """Installs mmcv, compiled unless pip has the wheel of a build for CPUs in its cache."""
    pinned = re.search(rf'^{distribution}==\S+', pins.read_text(), re.M)[0]
    fresh = ['--no-cache-dir', '--force-reinstall', '--no-deps']  # a wheel's name does not tell what it was built for
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'sitecustomize.py').write_text(EXEC_SETS_LOCALS if sys.version_info >= (3, 13) else '')
        jobs = os.environ.get('MAX_JOBS', str(os.cpu_count() or 1))
        variables = dict(variables, PYTHONPATH=folder, MMCV_WITH_OPS='1', CFLAGS='-g0', MAX_JOBS=jobs)
        options = ['-v', '--no-build-isolation', '-c', pins, pinned]
        pip(python, *options, *(fresh if cuda else []), variables=variables)
        try:
            run(python, 'import mmcv.ops')
        except SetupError:
            say('   the wheel in the cache was built with another torch; building it anew')
            pip(python, *options, *fresh, variables=variables)


def run(python: Path, code: str) -> str:
    """Runs a line of Python in the environment and returns what it prints."""
    result = subprocess.run([python, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    if result.returncode:
        raise SetupError(f'the environment does not work: {code}\n{result.stderr.strip()}')
    return result.stdout


def pip(python: Path, *args: object, variables: dict[str, str] | None = None) -> None:
    """Runs ``pip install`` with its output in a log, the end of which is shown if it fails."""
    log, command = python.parents[1] / 'setup.log', ['--disable-pip-version-check', 'install', *map(str, args)]
    env = dict(os.environ, PATH=f'{python.parent}{os.pathsep}{os.environ.get("PATH", "")}', PYTHONNOUSERSITE='1',
               **variables or {})
    with log.open('wb') as out:
        result = subprocess.run([python, '-m', 'pip', *command], env=env, stdout=out, stderr=subprocess.STDOUT)
    if result.returncode:
        tail = '\n'.join(log.read_text(errors='replace').strip().splitlines()[-25:])
        raise SetupError(f'pip install {" ".join(map(str, args))} failed; the end of {log}:\n{tail}')


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'setup: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
