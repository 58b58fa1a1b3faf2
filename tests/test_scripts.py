"""The shell scripts: what they pass on, what they say, and how they come by a Python. Nothing is installed here."""
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ('DATASET', 'DATA_PATH', 'EXP_NAME', 'OUTPUT_DIR', 'MODEL_FILE', 'RESUME', 'TORCH_INDEX')
TOOLS = ('bash', 'cat', 'cp', 'cut', 'dirname', 'du', 'flock', 'grep', 'mkdir', 'rm', 'sed', 'sleep', 'tail', 'tee',
         'touch', 'tr', 'uname')
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'

PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(7 if '--fail' in sys.argv else 0)"
RUN_REAL_MAIN = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(ROOT / 'main.py')!r}, *sys.argv[1:]])"

# A Python that can do no more than set up an environment. It counts as complete once pip has run to its end.
FAKE_PYTHON = '''#!/usr/bin/env bash
echo "$*" >>"$LOG"
case "$*" in
    '-P - '*) [ -e "$0.complete" ] && echo 'Python 3.11.7, torch 2.13.0' ;;
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    '-m pip install '*)
        [ "${PIP:-}" != fails ] || { echo 'ERROR: No matching distribution found for torch==2.13.0'; exit 1; }
        [ "${PIP:-}" != killed ] || { touch "$0.complete"; kill -9 $PPID; exit 1; }
        echo 'Collecting torch<3,>=2.10 (from -r requirements.txt (line 1))'
        echo '  Obtaining dependency information for torch from somewhere'
        echo '  Downloading torch-2.13.0-cp311-linux_x86_64.whl (191.8 MB)'
        sleep 0.3
        touch "$0.complete" ;;
    *urlopen*) [ "${NETWORK:-up}" = up ] ;;
    '-P -c '*) ;;
    *) echo "ran $0" ;;
esac
'''


class Project:
    """A copy of the scripts, in a folder whose name has a space, with a main.py and pins of the test's own."""

    def __init__(self, root: Path, main: str = PRINT_ARGUMENTS):
        self.root = root
        shutil.copytree(ROOT / 'scripts', root / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
        (root / 'main.py').write_text(main)
        (root / 'requirements.txt').write_text(f'numpy=={version("numpy").split("+")[0]}\n')
        (root / 'requirements-dev.txt').write_text(f'-r requirements.txt\npytest=={version("pytest")}\n')
        (root / 'requirements-lock.txt').touch()
        self.environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self.environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'

    def run(self, script: str, *args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(['bash', self.root / 'scripts' / script, *args], capture_output=True, text=True,
                              cwd=cwd or self.root, env=self.environment | environment, timeout=120)

    def arguments(self, script: str, *args: str, **options) -> list[str]:
        """What main.py is called with."""
        ended = self.run(script, *args, **options)
        assert ended.returncode == 0 and not ended.stderr, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    def isolate(self, python: bool) -> Path:
        """Leave nothing on PATH but a few tools, and FAKE_PYTHON if `python`. Returns the log of its calls."""
        tools = self.root.parent / 'tools'
        tools.mkdir()
        for name in TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        if python:
            (tools / 'python3.11').write_text(FAKE_PYTHON)
            (tools / 'python3.11').chmod(0o755)
        log = self.root.parent / 'log'
        self.environment |= {'PATH': str(tools), 'LOG': str(log)}
        return log


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / 'my project')


def flags(arguments: list[str]) -> dict[str, str]:
    """Flag and value pairs, the last of each: what argparse makes of them."""
    return {name: value for name, value in zip(arguments, arguments[1:]) if name.startswith('--')}


def error_of(ended: subprocess.CompletedProcess) -> str:
    """The one line of a failure."""
    assert ended.returncode == 2, (ended.returncode, ended.stdout, ended.stderr)
    assert ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1, ended.stderr
    return ended.stderr


def test_syntax():
    for path in (*(ROOT / 'scripts').glob('*.sh'), ROOT / '.ci' / 'run'):
        assert subprocess.run(['bash', '-n', path]).returncode == 0


# ---- what is passed on ----------------------------------------------------------------------------------------------

def test_train_passes_settings_and_flags_on(project, tmp_path):
    arguments = project.arguments('train.sh', '--seed', '3', '--no-soft_nms', '--odd', 'two words', '',
                                  DATASET='activitynet1.3', DATA_PATH='/data/a b', EXP_NAME='first', cwd=tmp_path)
    assert arguments == ['--dataset', 'activitynet1.3', '--data_path', '/data/a b', '--output_dir',
                         str(project.root / 'outputs'), '--exp_name', 'first', '--seed', '3', '--no-soft_nms', '--odd',
                         'two words', '']


def test_a_flag_wins_over_the_variable_of_its_name(project):
    arguments = project.arguments('train.sh', '--data_path=/x=y', '--exp_name', 'second', '--dataset=activitynet1.2',
                                  DATA_PATH='/data', EXP_NAME='first')
    assert arguments == ['--dataset', 'activitynet1.2', '--data_path', '/x=y', '--output_dir',
                         str(project.root / 'outputs'), '--exp_name', 'second']


def test_a_run_is_named_after_its_data(project):
    for name, environment in (('sample', {}), ('thumos14', {'DATA_PATH': '/data'}),
                              ('activitynet1.2', {'DATA_PATH': '/data', 'DATASET': 'activitynet1.2'})):
        assert flags(project.arguments('train.sh', **environment))['--exp_name'] == name


def test_without_data_the_sample_is_made_and_named(project):
    ended = project.run('train.sh', '--num_epochs', '5')
    assert 'synthetic sample' in ended.stdout.splitlines()[1]
    arguments = json.loads(ended.stdout.splitlines()[-1])
    assert (project.root / 'data' / 'sample' / 'gt.json').is_file()
    assert flags(arguments)['--data_path'] == str(project.root / 'data' / 'sample')
    # The user's length stands last, and no --num_steps, which would win over it, is given.
    assert flags(arguments)['--num_epochs'] == '5' and '--num_steps' not in arguments


def test_resume(project):
    assert project.arguments('train.sh', '--seed', '3', DATA_PATH='/data', RESUME='1')[-2:] == ['3', '--resume']
    for no in ('', '0'):
        assert '--resume' not in project.arguments('train.sh', DATA_PATH='/data', RESUME=no)


def test_only_the_sample_s_own_run_is_replaced_when_it_is_made_again(project):
    assert project.arguments('train.sh')[-1] == '--overwrite'
    for arguments in ({'RESUME': '1'}, {'EXP_NAME': 'mine'}, {'DATA_PATH': '/data'}):
        assert '--overwrite' not in project.arguments('train.sh', **arguments)
    assert '--overwrite' not in project.arguments('train.sh', '--resume')


def test_inference_takes_the_best_weights_of_the_run_and_keeps_its_files(project):
    weights = project.root / 'outputs' / 'first' / 'best.pt'
    weights.parent.mkdir(parents=True)
    weights.touch()
    given = flags(project.arguments('inference.sh', '--class_th', '0.1', DATA_PATH='/data', EXP_NAME='first'))
    assert given['--model_file'] == str(weights) and given['--exp_name'] == 'first-inference'
    assert given['--class_th'] == '0.1'
    for options in ({'args': ['--model_file', 'a.pkl']}, {'MODEL_FILE': 'a.pkl'}):
        arguments = project.arguments('inference.sh', *options.pop('args', []), DATA_PATH='/data', **options)
        assert flags(arguments)['--model_file'] == 'a.pkl' and flags(arguments)['--exp_name'] == 'thumos14-inference'
        assert '--inference_only' in arguments


def test_released_weights_in_the_folder_of_a_run_come_before_its_own(project):
    folder = project.root / 'outputs' / 'AICL'
    folder.mkdir(parents=True)
    for name in ('best.pt', 'CAS_Only.pkl'):
        (folder / name).touch()
        given = flags(project.arguments('inference.sh', DATA_PATH='/data', EXP_NAME='AICL'))
        assert given['--model_file'] == str(folder / name) and given['--exp_name'] == 'AICL-inference'


def test_sample_training_and_inference_see_the_same_snippets(project):
    arguments = [project.arguments('train.sh'), project.arguments('inference.sh', MODEL_FILE='a.pt')]
    assert len({flags(a)['--num_segments'] for a in arguments}) == 1


def test_inference_without_a_training_run_says_so(project):
    message = error_of(project.run('inference.sh', EXP_NAME='first'))
    folder = project.root / 'outputs' / 'first'
    assert f'{folder} holds neither CAS_Only.pkl nor best.pt' in message and 'train' in message


@pytest.mark.parametrize('args, environment, named', [
    (['--exp_name'], {}, '--exp_name'),
    ([], {'DATASET': 'activitynet1.3'}, 'DATA_PATH'),
])
def test_bad_usage(project, args, environment, named):
    assert named in error_of(project.run('train.sh', *args, **environment))


@pytest.mark.parametrize('call', ['bash scripts/train.sh', 'bash scripts/inference.sh', 'bash scripts/seeds.sh',
                                  'bash scripts/ablation.sh', 'bash scripts/test.sh', 'sbatch scripts/slurm.sh'])
@pytest.mark.parametrize('arguments', [['-h'], ['2', '--help']])
def test_help_is_the_head_of_the_script_and_runs_nothing(project, call, arguments):
    ended = project.run(Path(call).name, *arguments)
    assert ended.returncode == 0 and not ended.stderr and call in ended.stdout
    assert 'set -euo' not in ended.stdout and 'data_path' not in ended.stdout and not (project.root / 'data').exists()


def test_exit_status_is_that_of_the_program(project):
    assert project.run('train.sh', '--fail', DATA_PATH='/data').returncode == 7
    assert project.run('inference.sh', '--fail', DATA_PATH='/data', MODEL_FILE='a.pt').returncode == 7


def test_a_signal_to_the_script_reaches_the_program(tmp_path):
    project = Project(tmp_path / 'my project', 'import signal, sys\n'
                      'signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n'
                      'print("ready", flush=True)\nsignal.pause()')
    with subprocess.Popen(['bash', project.root / 'scripts' / 'train.sh'], stdout=subprocess.PIPE, text=True,
                          env=project.environment | {'DATA_PATH': '/data'}) as script:
        while script.stdout.readline() != 'ready\n':
            pass
        script.send_signal(signal.SIGTERM)
        assert script.wait(10) == 143


# ---- Python and what it has to hold ---------------------------------------------------------------------------------

def test_an_active_environment_is_used_as_it_is_and_named(project):
    said, *_ = project.run('train.sh', DATA_PATH='/data').stdout.splitlines()
    assert said.startswith('With the active environment: Python 3.') and said.endswith(f'numpy {version("numpy")}')
    assert not (project.root / '.venv').exists()


@pytest.mark.parametrize('installed, bounds, satisfied', [
    ('2.13.0', 'torch==2.13.0', True),
    ('2.13.0+cpu', 'torch==2.13.0\n', True),
    ('2.13', 'torch==2.13.0', True),
    ('2.13.1', 'torch==2.13.0', False),
    ('2.10.0', 'torch>=2.10,<3', True),
    ('2.9.1', 'torch>=2.10,<3', False),
    ('3.0.0', 'torch>=2.10,<3', False),
    ('2.11.0a0+eb65b36914.nv26.02', '# of a container\ntorch >=2.10, <3    # no pickles', True),
    ('2.13.0', 'torch', True),
    ('2.13.0', 'torch==2.13.0\n\nabsent-package>=1.0', False),
    ('2.13.0', 'absent-package', False),
])
def test_versions_that_satisfy_the_bounds(tmp_path, installed, bounds, satisfied):
    (tmp_path / f'torch-{installed}.dist-info').mkdir()
    (tmp_path / f'torch-{installed}.dist-info' / 'METADATA').write_text(f'Name: torch\nVersion: {installed}\n')
    (tmp_path / 'base.txt').write_text(bounds)
    (tmp_path / 'dev.txt').write_text('-r base.txt\n')
    for name in ('base.txt', 'dev.txt'):
        ended = subprocess.run(['bash', '-c', '. "$1"; satisfies "$2" "$3"', 'bash', ROOT / 'scripts' / 'setup.sh',
                                sys.executable, tmp_path / name], env=os.environ | {'PYTHONPATH': str(tmp_path)},
                               capture_output=True, text=True)
        assert (ended.returncode == 0) == satisfied
        assert (f', torch {installed}\n' in ended.stdout) == satisfied


def test_the_locked_versions_lie_within_the_bounds(tmp_path):
    """They are made to look installed, each of them."""
    for line in (ROOT / 'requirements-lock.txt').read_text().splitlines():
        if not line.startswith('#'):
            name, found = line.split('==')
            folder = tmp_path / f'{name.replace("-", "_")}-{found}.dist-info'
            folder.mkdir()
            (folder / 'METADATA').write_text(f'Name: {name}\nVersion: {found}\n')
    for path in ROOT.glob('requirements*.txt'):
        ended = subprocess.run(['bash', '-c', '. "$1"; satisfies "$2" "$3"', 'bash', ROOT / 'scripts' / 'setup.sh',
                                sys.executable, path], env=os.environ | {'PYTHONPATH': str(tmp_path)})
        assert ended.returncode == 0, path


def test_no_python_is_one_line(project):
    project.isolate(python=False)
    assert 'Python 3.11' in error_of(project.run('train.sh', DATA_PATH='/data'))


def test_a_fresh_machine_gets_an_environment_once(project):
    log = project.isolate(python=True)
    first, second = (project.run('train.sh', DATA_PATH='/data') for _ in range(2))
    python = project.root / '.venv' / 'bin' / 'python'
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    announced, collecting, downloading, installed, used, ran = first.stdout.splitlines()
    assert 'requirements.txt' in announced and str(project.root / '.venv') in announced
    assert collecting.startswith('  Collecting torch') and '191.8 MB' in downloading and 'Installed ' in installed
    assert second.stdout == f'{used}\n{ran}\n' == f'With .venv: Python 3.11.7, torch 2.13.0\nran {python}\n'
    assert sum(' pip install ' in line for line in log.read_text().splitlines()) == 1


@pytest.mark.parametrize('gpu, environment, index, said', [
    (False, {}, CPU_INDEX, 'CPU build'),
    (False, {'NETWORK': 'down'}, None, f'{CPU_INDEX} cannot be reached'),
    (True, {}, None, 'CUDA'),
    (False, {'TORCH_INDEX': ''}, None, 'where pip finds it'),
    (True, {'TORCH_INDEX': 'https://there/cu126'}, 'https://there/cu126', 'https://there/cu126'),
])
def test_the_build_of_torch(project, gpu, environment, index, said):
    if Path('/proc/driver/nvidia').exists() and not gpu:
        pytest.skip('there is a GPU here')
    log = project.isolate(python=True)
    if gpu:
        (project.root.parent / 'tools' / 'nvidia-smi').symlink_to(shutil.which('true'))
    ended = project.run('train.sh', DATA_PATH='/data', **environment)
    assert ended.returncode == 0 and said in ended.stdout.splitlines()[0]
    pip, = (line for line in log.read_text().splitlines() if ' pip install ' in line)
    assert f'-c {project.root}/requirements-lock.txt' in pip
    assert pip.endswith(f'--extra-index-url {index}') if index else '--extra-index-url' not in pip


def test_a_killed_installation_is_made_anew(project):
    log = project.isolate(python=True)
    assert project.run('train.sh', DATA_PATH='/data', PIP='killed').returncode != 0
    (project.root / '.venv' / 'half a package').touch()
    ended = project.run('train.sh', DATA_PATH='/data')
    assert ended.returncode == 0 and 'ran ' in ended.stdout
    assert not (project.root / '.venv' / 'half a package').exists()
    assert sum(' pip install ' in line for line in log.read_text().splitlines()) == 2


def test_a_failing_pip_is_one_line_and_can_be_repeated(project):
    project.isolate(python=True)
    message = error_of(project.run('train.sh', DATA_PATH='/data', PIP='fails'))
    assert 'No matching distribution found for torch==2.13.0' in message and 'requirements.txt' in message
    assert project.run('train.sh', DATA_PATH='/data').returncode == 0


def test_new_pins_are_added_to_the_environment_there_is(project):
    project.isolate(python=True)
    assert project.run('train.sh', DATA_PATH='/data').returncode == 0
    (project.root / '.venv' / 'bin' / 'python.complete').unlink()    # as if requirements.txt had changed
    (project.root / '.venv' / 'my own').touch()
    assert project.run('train.sh', DATA_PATH='/data').returncode == 0
    assert (project.root / '.venv' / 'my own').exists()


def test_two_scripts_at_once_install_once(project):
    log = project.isolate(python=True)
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda _: project.run('train.sh', DATA_PATH='/data'), range(3)))
    assert [e.returncode for e in ended] == [0, 0, 0], [e.stderr for e in ended]
    assert sum(' pip install ' in line for line in log.read_text().splitlines()) == 1


# ---- with the real program ------------------------------------------------------------------------------------------

def test_wrong_data_path_is_one_line(tmp_path):
    project = Project(tmp_path / 'my project', RUN_REAL_MAIN)
    assert str(tmp_path / 'nowhere') in error_of(project.run('train.sh', DATA_PATH=str(tmp_path / 'nowhere')))


def test_the_sample_is_learned_and_its_weights_localize_the_same(tmp_path):
    project = Project(tmp_path / 'my project', RUN_REAL_MAIN)
    small = ['--hidden_dim', '64']
    ended = project.run('train.sh', *small, '--lr', '1e-9', '--num_steps', '1', EXP_NAME='untrained')
    assert ended.returncode == 0, ended.stderr
    ended = project.run('train.sh', *small, '--lr', '1e-3', '--num_steps', '50')
    assert ended.returncode == 0, ended.stderr
    untrained, trained = (json.loads((project.root / 'outputs' / name / 'results.json').read_text())
                          for name in ('untrained', 'sample'))
    assert untrained['best']['average_mAP'] < 0.03
    assert trained['last']['average_mAP'] > 0.15

    before = (project.root / 'outputs' / 'sample' / 'detections.json').read_bytes()
    ended = project.run('inference.sh', *small)
    assert ended.returncode == 0, ended.stderr
    assert (project.root / 'outputs' / 'sample-inference' / 'detections.json').read_bytes() == before
    again = json.loads((project.root / 'outputs' / 'sample-inference' / 'results.json').read_text())
    assert again['mAP'] == trained['best']['mAP']
