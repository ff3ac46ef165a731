"""What is in a folder, and the small data sets that the demos' tools write there."""
import hashlib
import subprocess
import sys


def digest(folder):
    """The checksum of each file, by its path in the folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob('*')) if p.is_file()}


def make(tool, out, *args, train=12, val=6):
    """Runs a module that writes a data set."""
    command = [sys.executable, tool.__file__, out, '--train', train, '--val', val, *args]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def check_seeds(tool, data, folder, *args, **counts):
    """The same arguments as for ``data`` give the same bytes, and another seed gives another set."""
    for name, seed in ('a', '0'), ('b', '1'):
        assert make(tool, folder / name, *args, '--seed', seed, **counts).returncode == 0
    ours, other = digest(data), digest(folder / 'b')
    assert digest(folder / 'a') == ours
    assert ours.keys() & other.keys() and not [k for k in ours if ours[k] == other.get(k)]
