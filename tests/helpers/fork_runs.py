"""Runs a host's training script again and again in forked processes: what takes seconds to import is imported once.

``python fork_runs.py STEPS.json``: each step has ``script``, ``args``, ``processes``, ``log``, and may have ``kill``: seconds
after the start, or the number of a checkpoint that is being written, at which all of its processes are killed. Prints
the exit codes, as JSON, in its last line. After a kill the checkpoint that ``last_checkpoint`` names must be whole: what is
wrong with it stands in place of the codes.
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

STEP_LIMIT = 150  # seconds


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
        late = time.time() - start > STEP_LIMIT
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
    return what_is_wrong(work_dir) if step.get('kill') is not None else [codes[pid] for pid in pids]


def what_is_wrong(work_dir):
    """Of what a killed run left: nothing, no checkpoint yet, or why the one that is named cannot be resumed from."""
    from mmswinv2.engine.resume import why_not_whole
    last = work_dir / 'last_checkpoint'
    if not last.is_file():
        return 'nothing written' if not list(work_dir.glob('*.pth')) else 'no last_checkpoint beside checkpoints'
    path = Path(last.read_text())
    why = why_not_whole(path)
    return f'{path.name} {why}' if why else f'whole {path.name}'


def main():
    """Runs all steps."""
    steps = json.loads(Path(sys.argv[1]).read_text())
    for name in steps[0]['imports']:
        importlib.import_module(name)
    print(json.dumps([run(step) for step in steps]))


if __name__ == '__main__':
    main()
