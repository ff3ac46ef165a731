"""Runs a host's training script again and again in forked processes: what takes seconds to import is imported once.

``python fork_runs.py STEPS.json``: each step has ``script``, ``args``, ``processes``, ``log``, ``limit`` (seconds), and
may have ``kill``: seconds after the start, or the number of a file that is being written, at which all of its processes
are killed.
Prints the exit codes, as JSON, in its last line; of a step that was to be killed, what it left instead.
"""
import faulthandler
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path


def child(step, rank, port):
    """Becomes one process of a step; does not return."""
    os.setsid()
    log = os.open(step['log'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    faulthandler.enable()
    args = list(step['args'])
    if step['processes'] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(step['processes']),
                          MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        args += ['--launcher', 'pytorch']
    sys.argv = [step['script'], *args]
    code = 1
    try:
        runpy.run_path(step['script'], run_name='__main__')
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def should_die(step, start, work_dir, seen):
    """Whether the moment has come at which a step is killed."""
    kill = step.get('kill')
    if kill is None:
        return False
    if isinstance(kill, float):
        return time.time() - start > kill
    seen.update(p.name for p in work_dir.glob('.*.part'))
    return len(seen) >= kill


def run(step):
    """The exit codes of a step's processes; negative where one was killed."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    pids = []
    for rank in range(step['processes']):
        pid = os.fork()
        if not pid:
            child(step, rank, port)
        pids.append(pid)
    codes, start, seen = {}, time.time(), set()
    work_dir = Path(step['work_dir'])
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        late = time.time() - start > step['limit']
        if late or should_die(step, start, work_dir, seen):
            for pid in set(pids) - set(codes):
                if late:
                    os.kill(pid, signal.SIGABRT)  # faulthandler prints the stacks
                    time.sleep(1)
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(.002)
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)  # what a process leaves that ends without its interpreter's last steps
        except ProcessLookupError:
            pass
    return what_is_left(work_dir) if step.get('kill') is not None else [codes[pid] for pid in pids]


def what_is_left(work_dir):
    """Of what a killed run left: the whole checkpoint that a resumed one takes, or what is wrong."""
    from mmswinv2.engine.checkpoints import newest_whole
    try:
        path, wrong = newest_whole(work_dir)
    except ValueError as e:
        return str(e)
    if wrong:
        return f'wrong: {wrong}'
    return f'whole {path.name}' if path else 'nothing written'


def main():
    """Runs all steps."""
    steps = json.loads(Path(sys.argv[1]).read_text())
    for name in [*steps[0]['imports'], 'torch._dynamo', 'torch.distributed.fsdp']:  # the last two: by optimizers, FSDP
        importlib.import_module(name)
    from mmengine.config import config
    config.FormatCode = lambda text, **options: (text, True)  # yapf takes half of the time of a short run
    print(json.dumps([run(step) for step in steps]))


if __name__ == '__main__':
    main()
