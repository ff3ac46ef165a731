#!/usr/bin/env python3
"""Makes ``.venv`` with the classic OpenMMLab stack, pinned; does nothing when it is up to date.

Only the standard library is used: this runs before anything is installed. The long part is mmcv 2.1.0, which has no
wheel for current torch: its C++ operators are compiled once (15 to 30 minutes on two cores), after which pip keeps
the wheel in its cache.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (3, 11)
MMCV = 'mmcv==2.1.0'
INPUTS = ('tools/setup_env.py', 'requirements/build.txt', 'requirements/classic.txt', 'setup.py')


class SetupError(Exception):
    """Something the user has to put right; the message says what."""


def main() -> int:
    """Runs the set-up; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where the environment is made')
    args = parser.parse_args()
    try:
        if sys.version_info[:2] != PYTHON:
            return run_with_right_python()
        set_up(args.venv.absolute())
    except SetupError as e:
        print(f'setup: {e}', file=sys.stderr)
        return 1
    return 0


def run_with_right_python() -> int:
    """Starts this script again with the Python that the pins are for."""
    name = 'python{}.{}'.format(*PYTHON)
    found = shutil.which(name)
    if found is None:
        raise SetupError(f'{name} is needed (the versions in requirements/classic.txt are resolved for it), and is '
                         f'not on the PATH; this is Python {sys.version.split()[0]}')
    return subprocess.call([found, *sys.argv])


def set_up(path: Path) -> None:
    """Makes the environment at ``path``, unless it is there and made of the same inputs."""
    python = path / 'bin' / 'python'
    stamp = path / '.setup-stamp'
    wanted = fingerprint(path)
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return
    stamp.unlink(missing_ok=True)
    start = time.time()
    say(f'making {path.name} for Python {sys.version.split()[0]}')
    if not python.exists():
        try:
            venv.create(path, with_pip=True, clear=path.exists())
        except subprocess.CalledProcessError as e:
            raise SetupError(f'python could not make a virtual environment ({e}); on Debian and Ubuntu install '
                             'python3-venv') from e
    say('1 of 4: torch and build tools')
    pip(python, path, 'install', '-r', str(ROOT / 'requirements' / 'build.txt'))
    say('2 of 4: mmcv with its operators')
    install_mmcv(python, path)
    say('3 of 4: mmengine, mmdet, mmsegmentation, openmim and test tools')
    pip(python, path, 'install', '-r', str(ROOT / 'requirements' / 'classic.txt'))
    say('4 of 4: this project, in place')
    pip(python, path, 'install', '--no-deps', '--no-build-isolation', '-e', str(ROOT))
    check = 'import mmcv.ops, mmdet, mmseg, mim, mmswinv2.models'
    result = subprocess.run([python, '-W', 'ignore', '-c', check], capture_output=True, text=True)
    if result.returncode:
        raise SetupError(f'the environment was made but does not work: {check}\n{result.stderr.strip()}')
    stamp.write_text(wanted)
    say(f'done in {minutes(time.time() - start)}')


def fingerprint(path: Path) -> str:
    """What the environment is made of, as a hash: a change of it makes the set-up run again."""
    digest = hashlib.sha256(f'{sys.version} {path}'.encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install_mmcv(python: Path, path: Path) -> None:
    """Installs mmcv, building it unless the wheel is in pip's cache or mmcv is there."""
    installed = subprocess.run([python, '-c', 'import importlib.metadata as m; print("mmcv==" + m.version("mmcv"));'
                                'import mmcv.ops'], capture_output=True, text=True)
    if installed.returncode == 0 and installed.stdout.strip() == MMCV:
        return
    check_build_tools(path)
    say('   if pip has no cached wheel of it, this compiles 77 C++ files: 15 to 30 minutes on two cores, once')
    pip(python, path, 'install', '-v', '--no-build-isolation', MMCV, progress=True)


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


def pip(python: Path, path: Path, *args: str, progress: bool = False) -> None:
    """Runs pip with its output in a log; with ``progress``, says now and then how far a build is."""
    env = dict(os.environ, PATH=f'{path / "bin"}{os.pathsep}{os.environ.get("PATH", "")}', PYTHONNOUSERSITE='1',
               MMCV_WITH_OPS='1', CFLAGS=f'{os.environ.get("CFLAGS", "")} -g0'.strip(),
               MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count() or 1)))
    log = path / 'setup.log'
    with log.open('ab') as out:
        out.write(f'\n$ pip {" ".join(args)}\n'.encode())
        out.flush()
        begin = out.tell()
        process = subprocess.Popen([python, '-m', 'pip', '--disable-pip-version-check', *args], env=env, stdout=out,
                                   stderr=subprocess.STDOUT)
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


def say(text: str) -> None:
    """Prints a line at once."""
    print(f'setup: {text}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
