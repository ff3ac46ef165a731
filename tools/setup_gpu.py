"""Whether mmcv's operators are compiled for a GPU, and what to say where they cannot be.

:func:`look` finds out what the machine has, :func:`decide` turns that into settings of the build or an error. Only the
standard library is used.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DEVICES = ('auto', 'cpu', 'cuda')
USUAL_HOME = '/usr/local/cuda'


class SetupError(Exception):
    """Something the user has to put right; the message says what."""


@dataclass(frozen=True)
class Found:
    """What a machine has.

    Attributes:
        gpus: Compute capability of each NVIDIA GPU, such as ``'9.0'``; ``''`` where the driver does not tell.
        nvcc: Version of CUDA's compiler, such as ``'13.0'``; None without it.
        cuda_home: The folder that ``bin/nvcc`` is in.
        archs: Compute capabilities that nvcc compiles for; empty where it does not tell.
        arch_list: ``TORCH_CUDA_ARCH_LIST`` as the user set it.
        torch: Version of the torch that is installed; None before it is.
        torch_cuda: CUDA version that it was built for; None for a build for CPUs.
        torch_error: Why it cannot use the GPUs; None where it can, or was not asked.
    """
    gpus: tuple[str, ...] = ()
    nvcc: str | None = None
    cuda_home: str | None = None
    archs: tuple[str, ...] = ()
    arch_list: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    torch_error: str | None = None


@dataclass(frozen=True)
class Build:
    """How mmcv is built.

    Attributes:
        cuda: Whether its operators for GPUs are compiled.
        arch_list: ``TORCH_CUDA_ARCH_LIST``; None leaves it to torch.
        cuda_home: ``CUDA_HOME``.
    """
    cuda: bool
    arch_list: str | None = None
    cuda_home: str | None = None

    def environment(self) -> dict[str, str]:
        """Variables of mmcv's build; one for the CPU alone hides the GPUs, which mmcv's setup.py looks for."""
        if not self.cuda:
            return dict(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
        variables = dict(FORCE_CUDA='1', CUDA_HOME=self.cuda_home, TORCH_CUDA_ARCH_LIST=self.arch_list)
        return {name: value for name, value in variables.items() if value}


def decide(found: Found, device: str, expected_cuda: str) -> Build:
    """Chooses the build of mmcv.

    Args:
        found: What the machine has.
        device: ``'cpu'``, ``'cuda'`` (also where no GPU is seen, as in the build of an image), or ``'auto'``: for GPUs
            where there is one.
        expected_cuda: CUDA version of the torch that will be installed; counts until ``found.torch`` is known.

    Raises:
        SetupError: if operators for the GPU are wanted and cannot be compiled; the message has the ways out.
        ValueError: if ``device`` is unknown.
    """
    if device not in DEVICES:
        raise ValueError(f'device must be one of {", ".join(DEVICES)}, got {device!r}')
    if device == 'cpu' or (device == 'auto' and not found.gpus):
        return Build(cuda=False)
    what = f'this machine has a GPU (compute capability {", ".join(sorted({g or "?" for g in found.gpus}))})' \
        if found.gpus else '--cuda was given'
    wanted = found.torch_cuda if found.torch else expected_cuda
    if wanted is None:
        raise SetupError(f'torch must be a build for CUDA because {what}, got torch {found.torch}, a build for CPUs; '
                         'check the index that pip takes torch from (pip config list) and remove the environment, or '
                         'build for the CPU alone: make setup SETUP_ARGS=--cpu')
    if found.torch_error:
        raise SetupError(f'torch {found.torch} (CUDA {wanted}) must be able to use the GPU, got: {found.torch_error}\n'
                         f'Update the driver for CUDA {major(wanted)}, or build for the CPU alone: '
                         'make setup SETUP_ARGS=--cpu')
    if found.nvcc is None:
        raise SetupError(f'{what}, and nvcc, which compiles mmcv for it, is neither in $CUDA_HOME/bin nor on the PATH '
                         f'nor in {USUAL_HOME}/bin.{ways_out(wanted)}')
    if major(found.nvcc) != major(wanted):
        raise SetupError(f'nvcc must be of CUDA {major(wanted)}, as torch is (CUDA {wanted}), got {found.nvcc} in '
                         f'{found.cuda_home}.{ways_out(wanted)}')
    unknown = sorted({g for g in found.gpus if g and g not in found.archs}) if found.archs else []
    if unknown and not found.arch_list:
        raise SetupError(f'the GPU must have a compute capability that nvcc {found.nvcc} compiles for '
                         f'({", ".join(found.archs)}), got {", ".join(unknown)}.{ways_out(wanted)}')
    arch_list = found.arch_list
    if not arch_list and found.gpus and all(found.gpus):
        arch_list = ';'.join(sorted(set(found.gpus), key=numbers))
    if not arch_list and not found.gpus:
        raise SetupError('TORCH_CUDA_ARCH_LIST must name the compute capabilities to compile for, such as "8.0;9.0", '
                         'where --cuda is given and no GPU is seen; it is not set')
    return Build(True, arch_list, found.cuda_home)


def ways_out(cuda: str) -> str:
    """What a user can do whose GPU mmcv cannot be compiled for."""
    return f'''
One of these helps (docs/install.md has them in full):
- install nvcc of CUDA {major(cuda)} (torch is built for {cuda}), and set CUDA_HOME to its folder or put it on the PATH
- use a torch that OpenMMLab publishes mmcv for, in an environment of your own with Python 3.11:
    pip install torch==2.1.2 numpy==1.26.4 'setuptools>=77,<82' openmim
    mim install mmcv==2.1.0
    pip install '.[classic]' numpy==1.26.4
- build for the CPU alone: make setup SETUP_ARGS=--cpu'''


def look() -> Found:
    """Asks the driver and the compiler what there is."""
    nvcc = find_nvcc()
    version = re.search(r'release (\d+\.\d+)', output(str(nvcc), '--version')) if nvcc else None
    if version is None:
        nvcc = None
    archs = re.findall(r'compute_(\d+)(\d)\b', output(str(nvcc), '--list-gpu-arch')) if nvcc else []
    return Found(gpus=find_gpus(), nvcc=version and version.group(1), cuda_home=nvcc and str(nvcc.parent.parent),
                 archs=tuple(sorted((f'{a}.{b}' for a, b in archs), key=numbers)),
                 arch_list=os.environ.get('TORCH_CUDA_ARCH_LIST') or None)


def find_gpus() -> tuple[str, ...]:
    """Compute capability of each GPU that the driver tells of."""
    caps = output('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader').split()
    if caps and all(re.fullmatch(r'\d+\.\d+', c) for c in caps):
        return tuple(caps)
    return ('',) * len(re.findall(r'^GPU \d+:', output('nvidia-smi', '-L'), re.MULTILINE))  # drivers before 510


def find_nvcc() -> Path | None:
    """The first nvcc that has CUDA's headers beside it: a wrapper script elsewhere is of no use to torch."""
    homes = [os.environ.get('CUDA_HOME'), os.environ.get('CUDA_PATH')]
    on_path = shutil.which('nvcc')
    homes += [str(Path(on_path).resolve().parent.parent)] if on_path else []
    for home in (Path(h) for h in [*homes, USUAL_HOME] if h):
        headers = [*home.glob('include/cuda_runtime.h'), *home.glob('targets/*/include/cuda_runtime.h')]
        if (home / 'bin' / 'nvcc').is_file() and headers:
            return home / 'bin' / 'nvcc'
    return None


def output(*command: str) -> str:
    """What a command prints; nothing where it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return result.stdout if result.returncode == 0 else ''


def major(version: str) -> str:
    """``'13'`` of ``'13.0'``."""
    return version.split('.')[0]


def numbers(version: str) -> tuple[int, ...]:
    """``(13, 0)`` of ``'13.0'``, to sort by."""
    return tuple(int(n) for n in version.split('.'))
