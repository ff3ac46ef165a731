"""Code in a fresh interpreter."""
import subprocess
import sys


def run_python(code):
    """Runs code in an interpreter of its own, at most two minutes; returns what ``subprocess.run`` does."""
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=120)
