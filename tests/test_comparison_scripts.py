"""seeds.sh and ablation.sh: which runs they train, that they resume, and the final table.

A stand-in for main.py replaces the training: its mAP is known.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAMBDAS = ('lambda_action', 'lambda_contrast', 'lambda_modality')

# mAP: 0.1 times the seed plus the worth of each term. Exits with 3 where a file FAIL exists, except for seed 1.
STAND_IN = '''
import argparse, json, sys
from pathlib import Path
worth = {'lambda_action': 0.01, 'lambda_contrast': 0.02, 'lambda_modality': 0.04}
parser = argparse.ArgumentParser()
for name in 'dataset data_path output_dir exp_name seed num_epochs num_segments detection_inf_step lr'.split():
    parser.add_argument(f'--{name}')
for name, default in zip(worth, (0.1, 0.01, 5)):
    parser.add_argument(f'--{name}', type=float, default=default)
for name in ('resume', 'overwrite'):
    parser.add_argument(f'--{name}', action='store_true')
args = parser.parse_args()
with open(Path(__file__).with_name('log'), 'a') as log:
    log.write(json.dumps(sys.argv[1:]) + '\\n')
if Path(__file__).with_name('FAIL').exists() and args.seed != '1':
    sys.exit(3)
folder = Path(args.output_dir, args.exp_name)
folder.mkdir(parents=True, exist_ok=True)
score = int(args.seed) / 10 + sum(worth[name] for name in worth if getattr(args, name))
(folder / 'args.json').write_text(json.dumps(vars(args)))
(folder / 'results.json').write_text(json.dumps({name: {'step': 4, 'average_mAP': score} for name in ('best', 'last')}))
(folder / 'metrics.csv').write_text(f'step,epoch,average_mAP\\n4,1,{score}\\n')
'''

SLEEPER = '''
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    Path(__file__).with_name(signal.Signals(number).name).touch()
    time.sleep(0.3)  # as a run that saves a checkpoint
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print('ready', flush=True)
time.sleep(60)
'''


class Project:
    """A copy of the scripts and what they import, in a folder whose name has a space, with a stand-in for main.py."""

    def __init__(self, root: Path, main: str = STAND_IN):
        self.root = root
        for name in ('scripts', 'eval', 'formats'):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns('__pycache__'))
        for name in ('config.py', 'utils.py'):
            shutil.copy(ROOT / name, root)
        (root / 'main.py').write_text(main)
        (root / 'requirements.txt').write_text(f'numpy=={version("numpy").split("+")[0]}\n')
        kept = {name: value for name, value in os.environ.items() if name not in ('DATA_PATH', 'SEEDS')}
        self.environment = kept | {'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}

    def run(self, script: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a script in a folder that contains another `eval`, which must not be imported."""
        elsewhere = self.root.parent / 'elsewhere' / 'eval'
        elsewhere.mkdir(parents=True, exist_ok=True)
        (elsewhere / '__init__.py').write_text('raise SystemExit("the wrong eval")')
        return subprocess.run(['bash', self.root / 'scripts' / script, *args], capture_output=True, text=True,
                              encoding='utf-8', cwd=elsewhere.parent, env=self.environment | environment, timeout=120)

    def calls(self) -> list[dict[str, str | None]]:
        """Return the flags of every training since the last call: the last value of each, None for a switch."""
        log = self.root / 'log'
        calls = []
        for line in log.read_text().splitlines() if log.exists() else []:
            arguments = [word for argument in json.loads(line) for word in argument.split('=', 1)]
            calls.append({flag[2:]: None if value.startswith('--') else value
                          for flag, value in zip(arguments, [*arguments[1:], '--']) if flag.startswith('--')})
        log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / 'my project')


def groups_of(text: str) -> dict[str, list[str]]:
    """Return the cells of the table of groups, by group."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('group '))
    rows = [line.replace(' ± ', '±').split() for line in lines[start + 1:lines.index('', start)]]
    return {row[0]: row[1:] for row in rows}


def error_of(ended: subprocess.CompletedProcess) -> str:
    assert ended.returncode == 2, (ended.returncode, ended.stdout, ended.stderr)
    assert ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1, ended.stderr
    return ended.stderr


# ---- seeds.sh -------------------------------------------------------------------------------------------------------

def test_three_seeds_and_their_table(project):
    ended = project.run('seeds.sh', '3', '/data', '--exp_name', 'first')
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    calls = project.calls()
    assert [(call['exp_name'], call['seed']) for call in calls] == [(f'first-seed{i}', str(i)) for i in (1, 2, 3)]
    for call in calls:
        assert 'dataset' not in call and call['data_path'] == '/data' and 'resume' in call
        assert call['output_dir'] == str(project.root / 'outputs')
        assert not {'num_epochs', 'lr', 'detection_inf_step'} & call.keys()  # those of the recipe
    # 0.17, 0.27, 0.37
    assert groups_of(ended.stdout) == {'first': ['3', '37.00', '27.00±10.00', '27.00±10.00', '0.00', '-']}
    for name in ('first-seeds.csv', 'first-seeds.md'):
        assert (project.root / 'outputs' / name).is_file()
    assert str(project.root / 'outputs' / 'first-seeds.csv') in ended.stdout.splitlines()[-1]


def test_number_of_seeds_and_flags(project):
    ended = project.run('seeds.sh', '2', '--lambda_action', '0', '--data_path', '/data', '--output_dir', 'my runs',
                        '--exp_name', 'first')
    assert ended.returncode == 0, ended.stderr
    assert [call['lambda_action'] for call in project.calls()] == ['0', '0']
    assert (project.root.parent / 'elsewhere' / 'my runs' / 'first-seeds.md').is_file()
    assert list(groups_of(ended.stdout)) == ['first']


def test_the_sample_is_trained_for_a_short_time(project):
    ended = project.run('seeds.sh', '1', '--detection_inf_step', '7')
    assert ended.returncode == 0 and 'synthetic sample' in ended.stdout.splitlines()[1]
    (call,) = project.calls()
    assert call['exp_name'] == 'sample-seed1' and call['data_path'] == str(project.root / 'data' / 'sample')
    assert call['num_epochs'] and call['detection_inf_step'] == '7'  # the user's comes last
    assert (project.root / 'data' / 'sample' / 'gt.json').is_file()


def test_overwrite_replaces_resume(project):
    assert project.run('seeds.sh', '1', '/data', '--overwrite').returncode == 0
    (call,) = project.calls()
    assert 'overwrite' in call and 'resume' not in call


def test_a_failed_run_ends_the_script_with_its_status_and_can_be_resumed(project):
    (project.root / 'FAIL').touch()
    ended = project.run('seeds.sh', DATA_PATH='/data')
    assert ended.returncode == 3 and 'group' not in ended.stdout
    assert [call['seed'] for call in project.calls()] == ['1', '2']
    (project.root / 'FAIL').unlink()
    assert project.run('seeds.sh', DATA_PATH='/data').returncode == 0
    assert ['resume' in call for call in project.calls()] == [True] * 3


@pytest.mark.parametrize('script, args, environment, named', [
    ('seeds.sh', ['0'], {}, "'0' seeds"),
    ('seeds.sh', ['99999'], {}, "'99999' seeds"),
    ('seeds.sh', ['2', '--seed', '7'], {}, '--seed'),
    ('seeds.sh', ['--seed=7'], {}, '--seed'),
    ('seeds.sh', ['--dataset', 'activitynet1.3'], {'DATA_PATH': ''}, 'data folder'),
    ('seeds.sh', ['--lamda_action', '0'], {}, '--lambda_action'),
    ('ablation.sh', [], {'SEEDS': 'many'}, "'many' seeds"),
    ('ablation.sh', [], {'SEEDS': '0'}, "'0' seeds"),
    ('ablation.sh', ['--seed', '7'], {}, '--seed'),
])
def test_bad_usage(project, script, args, environment, named):
    assert named in error_of(project.run(script, *args, **{'DATA_PATH': '/data'} | environment))
    assert not project.calls()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_script_reaches_the_run_and_ends_both(tmp_path, number):
    project = Project(tmp_path / 'my project', SLEEPER)
    with subprocess.Popen(['bash', project.root / 'scripts' / 'seeds.sh'], stdout=subprocess.PIPE, text=True,
                          env=project.environment | {'DATA_PATH': '/data'}) as script:
        while script.stdout.readline() != 'ready\n':
            pass
        script.send_signal(number)
        assert script.wait(20) == 128 + number
        assert script.stdout.read() == ''  # the run has ended too, else it would keep the pipe open; no second run
    assert (project.root / number.name).exists()


# ---- ablation.sh ----------------------------------------------------------------------------------------------------

def test_ablation(project):
    ended = project.run('ablation.sh', '/data', '--exp_name', 'x')
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    calls = project.calls()
    names = 'baseline', 'action', 'contrast', 'modality', 'full'
    assert [call['exp_name'] for call in calls] == [f'x-{name}-seed1' for name in names]
    zeros = [{name for name in LAMBDAS if call.get(name) == '0'} for call in calls]
    action, contrast, modality = LAMBDAS
    assert zeros == [{*LAMBDAS}, {contrast, modality}, {action, modality}, {action, contrast}, set()]
    assert groups_of(ended.stdout) == {  # the worth of the remaining terms
        'x-baseline': ['0', '0', '0', '1', '10.00', '10.00', '10.00', '0.00', '-'],
        'x-action': ['0.1', '0', '0', '1', '11.00', '11.00', '11.00', '0.00', '-'],
        'x-contrast': ['0', '0.01', '0', '1', '12.00', '12.00', '12.00', '0.00', '-'],
        'x-modality': ['0', '0', '5', '1', '14.00', '14.00', '14.00', '0.00', '-'],
        'x-full': ['0.1', '0.01', '5', '1', '17.00', '17.00', '17.00', '0.00', '-'],
    }
    for name in ('x-ablation.csv', 'x-ablation.md'):
        assert (project.root / 'outputs' / name).is_file()


def test_ablation_with_several_seeds_and_other_weights(project):
    ended = project.run('ablation.sh', '/data', '--lambda_modality', '3', SEEDS='2')
    assert ended.returncode == 0, ended.stderr
    calls = project.calls()
    assert [call['seed'] for call in calls] == ['1', '2'] * 5
    assert [call['lambda_modality'] for call in calls[::2]] == ['0', '0', '0', '3', '3']
    assert groups_of(ended.stdout)['thumos14-full'] == [
        '0.1', '0.01', '3', '2', '27.00', '22.00±7.07', '22.00±7.07', '0.00', '-']
