"""Short training runs of the mini configs, each in processes of its own that end within a time limit."""
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASES = dict(mmdet='htc_swinv2_mini.py', mmseg='upernet_swinv2_mini.py', mmaction2='video_swinv2_mini.py')
PACKAGES = dict(mmaction2='mmaction')  # whose import name is another
SMALL = dict(
    mmdet='''
channels = 16
model = dict(
    backbone=dict(arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), drop_path_rate=0.2),
    neck=dict(in_channels=[16, 32, 64, 128], attention=dict(num_heads=4, drop_path_rate=0.1)))
train_dataloader = dict(num_workers={workers}, persistent_workers={workers} > 0)
''',
    mmseg='''
model = dict(
    backbone=dict(arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8]), drop_path_rate=0.2),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),
    auxiliary_head=dict(in_channels=64, channels=16))
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0)
''',
    mmaction2='''
model = dict(
    backbone=dict(arch=dict(embed_dims=16, depths=[1, 1, 1], num_heads=[1, 2, 4]), init_cfg=None),
    cls_head=dict(in_channels=64))
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0)
''')
SCHEDULE = '''
train_cfg = dict(max_iters={iters})
param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end={iters})]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={interval}, max_keep_ckpts=2, save_last=True))
'''


def several(*imports):
    """What a config of several processes adds: a short time limit, and modules of tests."""
    return f"""
custom_imports = dict(imports=['mmswinv2.engine.setup', *{imports}], allow_failed_imports=False)
env_cfg = dict(dist_cfg=dict(timeout=120))
"""


def write_config(folder, host, *fragments, iters=6, interval=2, workers=0, more=''):
    """A config made of the host's mini config, ``_base_`` fragments and text of one's own."""
    bases = [f'{host}/{BASES[host]}', *(f'_base_/sharding/{name}.py' for name in fragments)]
    text = f'_base_ = {[str(ROOT / "configs" / name) for name in bases]!r}\n'
    path = Path(folder) / '_'.join([host, *fragments, 'config.py'])
    path.write_text(text + SMALL[host].format(workers=workers) + SCHEDULE.format(iters=iters, interval=interval))
    if more:
        child = path.with_name(f'more_{path.name}')
        child.write_text(f'_base_ = {str(path)!r}\n{more}')
        return child
    return path


def environment(data=None, **more):
    """Of a child: one thread, the data, this checkout first, stacks of all threads when it is aborted."""
    env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{ROOT / "tests" / "helpers" / "imports"}',
               OMP_NUM_THREADS='1', PYTHONFAULTHANDLER='1', PYTHONWARNINGS='ignore', MMSWINV2_MINI_COCO=f'{data}/',
               MMSWINV2_MINI_ADE20K=f'{data}/', MMSWINV2_MINI_CLIPS=f'{data}/', **more)
    env.pop('PYTEST_CURRENT_TEST', None)
    return env


def run(args, env, timeout=240):
    """Runs a command in a session of its own; all of it ends with it, or at the limit, with the stacks shown."""
    process = subprocess.Popen(args, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # faulthandler prints the stacks
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        raise AssertionError(f'{args} did not end in {timeout} s:\n{output[-8000:]}') from None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return process.returncode, output


def step(host, config, work_dir, *options, name='train', processes=1, kill=None, limit=150):
    """A run of a host's script ``'train'`` or ``'test'``, as mim finds it, as a step of :func:`train_in_turn`."""
    package = PACKAGES.get(host, host)
    parts = [package, *(f'{package}.{part}' for part in ('datasets', 'models', 'evaluation'))]
    script = Path(find_spec(package).origin).parent / '.mim' / 'tools' / f'{name}.py'
    return dict(imports=['mmswinv2.engine.setup', *parts], script=str(script),
                args=[str(a) for a in (config, '--work-dir', work_dir, *options)],
                work_dir=str(work_dir), processes=processes, kill=kill, limit=limit)


def train_in_turn(folder, steps, *, data, timeout=280):
    """Runs steps one after the other in processes forked from one that has imported the host.

    Returns:
        The exit codes of each step's processes, and what each step printed.
    """
    for i, one in enumerate(steps):
        one['log'] = str(Path(folder) / f'step_{i}.log')
    file = Path(folder) / 'steps.json'
    file.write_text(json.dumps(steps))
    code, output = run([sys.executable, str(Path(__file__).parent / 'fork_runs.py'), str(file)], environment(data),
                       timeout)
    logs = [Path(one['log']).read_text() if Path(one['log']).exists() else '' for one in steps]
    assert code == 0, output[-4000:] + '\n'.join(log[-2000:] for log in logs)
    return json.loads(output.splitlines()[-1]), logs
