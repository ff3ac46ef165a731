"""Writing small data sets: nothing is lost that the tool did not make, whatever is in the way or happens meanwhile."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mini_data

pytestmark = pytest.mark.mmdet

TOOLS = Path(mini_data.__file__).parent
SCRIPT = '''
import sys, time
from pathlib import Path
from mini_data import write_data_set

def write_split(out, split, count, seed):
    (out / split).mkdir(parents=True)
    for i in range(count):
        (out / split / f'{i}.txt').write_text(f'{seed} {i}')
    while Path(sys.argv[0]).with_name('wait').exists():
        time.sleep(.01)
    return f'{count} files'

sys.exit(write_data_set('A test.', 'mini', write_split, train=2, val=1))
'''


@pytest.fixture
def start(tmp_path):
    """Starts the tool; it waits in the middle for as long as there is a file ``wait``."""
    script = tmp_path / 'tool' / 'make.py'
    script.parent.mkdir()
    script.write_text(SCRIPT)
    (tmp_path / 'in').mkdir()

    started = []

    def start(*args):
        # a shell has its background jobs ignore SIGINT, and their children too
        process = subprocess.Popen([sys.executable, str(script), *map(str, args)], cwd=tmp_path / 'in', text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, PYTHONPATH=str(TOOLS)),
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        started.append(process)
        return process
    yield start
    for process in started:
        process.kill()
        process.wait(20)


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def make(start):
    return lambda *args: finish(start(*args))


@pytest.fixture
def paused(start, tmp_path):
    """The tool in the middle, with its files written, and the file ``wait`` that it waits for."""
    wait = tmp_path / 'tool' / 'wait'
    wait.touch()
    process = start('set')
    wait_for(lambda: list((tmp_path / 'in').glob('set.partial-*/new/train/1.txt')))
    return process, wait


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob('*') if p.is_file()}


def refused(result, *texts):
    """Whether the tool wrote its usage and then one line with all ``texts``."""
    code, out, err = result
    return code == 2 and not out and 'Traceback' not in err and all(t in err.splitlines()[-1] for t in texts)


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(.01)


def test_an_earlier_result_is_replaced_and_the_same_is_left(make, tmp_path):
    out = tmp_path / 'in' / 'set'
    assert make('set')[0] == 0
    made = tree(out)
    assert 'already there' in make('set')[1] and tree(out) == made
    assert make('set', '--seed', '1')[0] == 0
    assert tree(out).keys() == made.keys() and tree(out)['train/0.txt'] == '(1, 0) 0'
    (out / 'train' / '0.txt').unlink()  # not whole: made again
    assert make('set', '--seed', '1')[0] == 0 and (out / 'train' / '0.txt').exists()
    assert os.listdir(out.parent) == ['set']
    assert out.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_that_looks_like_one_of_ours_is_kept(make, tmp_path):
    (tmp_path / 'in' / 'set.partial').mkdir()
    (tmp_path / 'in' / 'set.partial' / 'mine.txt').write_text('x')
    assert make('set')[0] == 0
    assert (tmp_path / 'in' / 'set.partial' / 'mine.txt').read_text() == 'x'


@pytest.mark.parametrize('change', ['file', 'folder', 'edited', 'link', 'unlisted'])
def test_what_a_user_put_into_an_earlier_result_is_kept(change, make, tmp_path):
    assert make('set')[0] == 0
    out, name = tmp_path / 'in' / 'set', 'mine'
    if change == 'file':
        (out / name).write_text('x')
    elif change == 'folder':
        (out / name).mkdir()
    elif change == 'link':
        (out / name).symlink_to(tmp_path)
    elif change == 'edited':
        name = 'train/0.txt'
        (out / name).write_text('better')
    else:  # as an earlier version left it
        name = 'train/0.txt'
        said = json.loads((out / 'mini.json').read_text())
        del said['files']
        (out / 'mini.json').write_text(json.dumps(said))
    before = tree(out)
    assert 'already there' in make('set')[1]
    assert refused(make('set', '--seed', '1'), 'holds something else', name)
    assert tree(out) == before and os.listdir(out.parent) == ['set']


@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{"format": 1, "files": 3}', '\udce4'])
def test_a_damaged_marker(text, make, tmp_path):
    assert make('set')[0] == 0
    out = tmp_path / 'in' / 'set'
    (out / 'mini.json').write_text(text, errors='surrogateescape')
    assert refused(make('set'), 'mini.json is damaged')
    assert (out / 'train' / '0.txt').exists() and os.listdir(out.parent) == ['set']


def test_a_link_is_followed(make, tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    (tmp_path / 'in' / 'set').symlink_to(disk)
    assert make('set')[0] == 0 and make('set', '--seed', '1')[0] == 0
    assert (tmp_path / 'in' / 'set').is_symlink() and (disk / 'train' / '0.txt').read_text() == '(1, 0) 0'
    assert os.listdir(tmp_path / 'in') == ['set']


@pytest.mark.parametrize('out, text', [('file', 'the file'), ('file/a/b', 'below the file'), ('dangling', 'to nothing'),
                                       ('circle', 'link'), ('/proc/x', 'that can be written'), ('full', 'a.txt')])
def test_what_is_in_the_way_is_named_before_any_work(out, text, make, tmp_path):
    here = tmp_path / 'in'
    (here / 'file').write_text('x')
    (here / 'dangling').symlink_to('nowhere')
    (here / 'circle').symlink_to('circle')
    (here / 'full').mkdir()
    (here / 'full' / 'a.txt').write_text('x')
    before = sorted(os.listdir(here))
    assert refused(make(out), 'OUT must be', text)
    assert sorted(os.listdir(here)) == before


@pytest.mark.parametrize('there', [False, True])
@pytest.mark.parametrize('seed', ['1', '2'])
def test_two_at_once(seed, there, start, make, tmp_path):
    """With the same arguments both end well; with others the second says so, and the first is not lost."""
    out = tmp_path / 'in' / 'set'
    if there:
        assert make('set')[0] == 0
    (tmp_path / 'tool' / 'wait').touch()
    processes = [start('set', '--seed', '1'), start('set', '--seed', seed)]
    wait_for(lambda: len(list(out.parent.glob('set.partial-*/new/train/1.txt'))) == 2)
    (tmp_path / 'tool' / 'wait').unlink()
    results = [finish(p) for p in processes]
    codes = sorted(code for code, _, _ in results)
    if seed == '1':
        assert codes == [0, 0], results
    else:
        assert codes == [0, 2] and any('was changed by another process' in err for _, _, err in results), results
    winner = '1' if results[0][0] == 0 else seed
    assert tree(out)['train/0.txt'] == f'({winner}, 0) 0' and len(tree(out)) == 4
    assert os.listdir(out.parent) == ['set']


def test_what_comes_meanwhile_is_kept(paused, tmp_path):
    out, (process, wait) = tmp_path / 'in' / 'set', paused
    out.mkdir()
    (out / 'mine.txt').write_text('x')
    wait.unlink()
    code, _, err = finish(process)
    assert code == 2 and 'mine.txt' in err.splitlines()[-1]
    assert tree(out) == {'mine.txt': 'x'} and os.listdir(out.parent) == ['set']


def test_a_killed_run_is_no_hindrance(paused, make, tmp_path):
    out, (process, wait) = tmp_path / 'in' / 'set', paused
    process.send_signal(signal.SIGKILL)
    finish(process)
    wait.unlink()
    assert not out.exists() and make('set')[0] == 0
    left = sorted(os.listdir(out.parent))
    assert left[0] == 'set' and len(left) == 2 and left[1].startswith('set.partial-')


def test_an_interrupted_run_leaves_nothing(paused, tmp_path):
    paused[0].send_signal(signal.SIGINT)
    assert finish(paused[0])[0] != 0
    assert os.listdir(tmp_path / 'in') == []
