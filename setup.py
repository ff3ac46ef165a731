"""Packaging: ``pip install .[classic]`` or ``pip install .[onedl]``.

The distribution is called ``mmswinv2-plugin`` and has no console script, because both versions of mim find a package
by its distribution's file list and go wrong for a distribution whose name sorts before its module's.
"""
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'mmswinv2' / 'version.py').read_text()).group(1)
TEST = ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'instaboostfast', 'safetensors', 'scikit-image',
        'shapely', 'transformers']


# in tools/, what works in a checkout only
OF_A_CHECKOUT = ('make_metafiles.py', 'setup_env.py')


class BuildWithConfigs(build_py):
    """Ships configs and tools inside the package, where mim looks for them; a checkout's own are used in place."""

    def run(self) -> None:
        """Builds the package and copies configs and tools into it."""
        super().run()
        if not getattr(self, 'editable_mode', False):
            target = Path(self.build_lib) / 'mmswinv2' / '.mim'
            shutil.rmtree(target, ignore_errors=True)
            for folder in ('configs', 'tools'):
                shutil.copytree(ROOT / folder, target / folder,
                                ignore=shutil.ignore_patterns('__pycache__', *OF_A_CHECKOUT))
            shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='mmswinv2-plugin',
    version=VERSION,
    description='Swin Transformer V2 as a first-class backbone for MMDetection, MMSegmentation, MMPretrain and '
    'MMAction2',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    cmdclass=dict(build_py=BuildWithConfigs),
    packages=find_packages(include=['mmswinv2', 'mmswinv2.*']),
    package_data=dict(mmswinv2=['py.typed']),
    python_requires='>=3.10',
    install_requires=['torch>=2.1', 'numpy'],
    extras_require={
        # mmcv and onedl-mmcv must be built with --no-build-isolation where torch is installed: see docs/install.md
        'classic': [
            'mmengine==0.10.7', 'mmcv==2.1.0', 'mmdet==3.3.0', 'mmsegmentation==1.2.2', 'openmim', 'setuptools<82',
            'pycocotools', 'ftfy', 'regex'
        ],
        'onedl': [
            'onedl-mmengine==0.10.12', 'onedl-mmcv==2.3.6', 'onedl-mmdetection==3.5.1', 'onedl-mmsegmentation==1.4.2',
            'onedl-mim==0.5.1', 'pycocotools', 'ftfy', 'regex'
        ],
        # beside classic, and beside onedl; they want the torchvision that matches torch
        'mmpretrain': ['mmpretrain==1.2.0', 'torchvision'],
        'onedl-mmpretrain': ['onedl-mmpretrain==1.3.6', 'torchvision'],
        'mmaction2': ['mmaction2==1.2.0', 'decord', 'einops'],
        'safetensors': ['safetensors'],
        'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
        'instaboost': ['instaboostfast'],
        'dev': [*TEST, 'mypy', 'ruff'],
    },
    classifiers=[
        *(f'Programming Language :: Python :: {version}' for version in ('3.10', '3.11', '3.12', '3.13')),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
