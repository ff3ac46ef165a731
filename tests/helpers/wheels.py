"""Wheels of this project, and commands that use one as if it were installed."""
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheel(folder, source=ROOT):
    """Builds a wheel without its dependencies, so that nothing is fetched; returns its path."""
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder,
                    source], check=True, capture_output=True, timeout=240)
    wheel, = Path(folder).glob('*.whl')
    return wheel


class Site:
    """A folder that has what a wheel has, before all other packages.

    Args:
        wheel: The file.
        folder: A new folder.
    """

    def __init__(self, wheel, folder):
        self.folder = folder
        self.cwd = folder.with_name(f'{folder.name}-cwd')
        self.cwd.mkdir()
        zipfile.ZipFile(wheel).extractall(folder)

    @property
    def mim(self):
        """What mim looks at."""
        return self.folder / 'mmswinv2' / '.mim'

    def python(self, *args):
        """Runs Python in a folder of its own, away from the checkout."""
        env = dict(os.environ, PYTHONPATH=str(self.folder))
        return subprocess.run([sys.executable, '-W', 'ignore', *map(str, args)], cwd=self.cwd, env=env,
                              capture_output=True, text=True, timeout=240)
