"""The shell scripts: what they pass to main.py, what they print, and how they find Python. Nothing is installed."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ('DATA_PATH', 'SEEDS', 'TORCH_INDEX')
TOOLS = ('bash', 'cat', 'cksum', 'cp', 'dirname', 'flock', 'mkdir', 'rm', 'sed', 'sleep', 'tail', 'tee', 'touch',
         'uname')
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'

LONG_PATH = f'/opt/{"a long folder/" * 15}torch-2.13.0-cp311-linux_x86_64.whl'
PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(7 if '--fail' in sys.argv else 0)"
RUN_REAL_MAIN = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(ROOT / 'main.py')!r}, *sys.argv[1:]])"

# A Python that can only set up an environment, which satisfies the requirements once pip has finished.
FAKE_PYTHON = '''#!/usr/bin/env bash
echo "$*" | sed 's/^-P -c if True.*/metadata/;t;/^ /d' >>"$LOG"
case "$*" in
    *importlib.metadata*) [ -e "$0.complete" ] && echo "Using $0: Python 3.11.7, torch 2.13.0" ;;
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    '-m pip install '*)
        [ "${PIP:-}" != fails ] || { echo 'ERROR: No matching distribution found for torch==2.13.0'; exit 1; }
        [ "${PIP:-}" != killed ] || { touch "$0.complete"; kill -9 $PPID; exit 1; }
        echo 'Collecting torch<3,>=2.10 (from -r requirements.txt (line 1))'
        echo '  Obtaining dependency information for torch from somewhere'
        echo '  Downloading torch-2.13.0-cp311-linux_x86_64.whl (191.8 MB)'
        echo "Processing $LONG_PATH"
        echo 'Installing collected packages: mpmath, torch'
        sleep 0.3
        touch "$0.complete" ;;
    *urlopen*) [ "${NETWORK:-up}" = up ] ;;
    '-P -c '*) ;;
    *) echo "ran $0" ;;
esac
'''


class Project:
    """A copy of the scripts in a folder whose name has a space, with a stand-in for main.py and its requirements."""

    def __init__(self, root: Path, main: str = PRINT_ARGUMENTS):
        self.root = root
        shutil.copytree(ROOT / 'scripts', root / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'utils.py', root)
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
        """Return the arguments of main.py."""
        ended = self.run(script, *args, **options)
        assert ended.returncode == 0 and not ended.stderr, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    def isolate(self, python: bool) -> Path:
        """Reduce PATH to a few tools, with FAKE_PYTHON if `python`. Returns the log of its calls."""
        tools = self.root.parent / 'tools'
        tools.mkdir()
        for name in TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        if python:
            (tools / 'python3.11').write_text(FAKE_PYTHON)
            (tools / 'python3.11').chmod(0o755)
        log = self.root.parent / 'log'
        self.environment |= {'PATH': str(tools), 'LOG': str(log), 'LONG_PATH': LONG_PATH}
        return log


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / 'my project')


def flags(arguments: list[str]) -> dict[str, str]:
    """Return the values of the flags; as in argparse the last one counts."""
    words = [word for argument in arguments
             for word in (argument.split('=', 1) if argument.startswith('--') else [argument])]
    return {name: value for name, value in zip(words, words[1:]) if name.startswith('--')}


def error_of(ended: subprocess.CompletedProcess) -> str:
    """Return the single line of a failure."""
    assert ended.returncode == 2, (ended.returncode, ended.stdout, ended.stderr)
    assert ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1, ended.stderr
    return ended.stderr


def test_syntax():
    for path in (*(ROOT / 'scripts').glob('*.sh'), ROOT / '.ci' / 'run'):
        assert subprocess.run(['bash', '-n', path]).returncode == 0


# ---- arguments ------------------------------------------------------------------------------------------------------

def test_train_passes_flags_to_main(project, tmp_path):
    arguments = project.arguments('train.sh', '/data/a b', '--seed', '3', '--no-soft_nms', '--odd', 'two words', '',
                                  '--dataset', 'activitynet1.3', cwd=tmp_path)
    assert arguments == ['--data_path=/data/a b', f'--output_dir={project.root / "outputs"}',
                         '--exp_name=activitynet1.3', '--seed', '3', '--no-soft_nms', '--odd', 'two words', '',
                         '--dataset', 'activitynet1.3']


@pytest.mark.parametrize('args, variable, expected', [
    ([], '/variable', '/variable'),
    (['/first'], '/variable', '/first'),
    (['--data_path=/flag=x'], '/variable', '/flag=x'),
    (['/first', '--data_path', '/flag'], '', '/flag'),
])
def test_the_data_folder(project, args, variable, expected):
    assert flags(project.arguments('train.sh', *args, DATA_PATH=variable))['--data_path'] == expected


def test_variables_of_other_flags_do_not_count(project):
    given = flags(project.arguments('train.sh', '/data', EXP_NAME='first', DATASET='activitynet1.2', OUTPUT_DIR='x',
                                    RESUME='1'))
    assert given == {'--data_path': '/data', '--output_dir': str(project.root / 'outputs'), '--exp_name': 'thumos14'}


@pytest.mark.parametrize('args, expected', [
    ([], 'sample'), (['/data'], 'thumos14'), (['/data', '--dataset', 'activitynet1.2'], 'activitynet1.2'),
    (['/data', '--dataset=activitynet1.2', '--exp_name=first'], 'first'), (['/data', '--exp_name=-x'], '-x')])
def test_a_run_is_named_after_its_data(project, args, expected):
    assert flags(project.arguments('train.sh', *args))['--exp_name'] == expected


def test_without_data_the_sample_is_made_and_named(project):
    ended = project.run('train.sh', '--num_epochs', '5')
    assert 'synthetic sample' in ended.stdout.splitlines()[1]
    arguments = json.loads(ended.stdout.splitlines()[-1])
    assert (project.root / 'data' / 'sample' / 'gt.json').is_file()
    assert flags(arguments)['--data_path'] == str(project.root / 'data' / 'sample')
    # The user's length comes last, and there is no --num_steps, which would override it.
    assert flags(arguments)['--num_epochs'] == '5' and '--num_steps' not in arguments


def test_only_the_run_of_the_sample_is_replaced_when_it_is_trained_again(project):
    assert project.arguments('train.sh')[-1] == '--overwrite'
    for args in (['--resume'], ['--exp_name', 'mine'], ['/data'], ['/data', '--exp_name', 'sample']):
        assert '--overwrite' not in project.arguments('train.sh', *args)


def test_inference_takes_the_best_weights_of_the_run_and_writes_to_another_folder(project):
    weights = project.root / 'outputs' / 'first' / 'best.pt'
    weights.parent.mkdir(parents=True)
    weights.touch()
    given = flags(project.arguments('inference.sh', '/data', '--class_th', '0.1', '--exp_name', 'first'))
    assert given['--model_file'] == str(weights) and given['--exp_name'] == 'first-inference'
    assert given['--class_th'] == '0.1'
    assert '--exp_name=-x-inference' in project.arguments('inference.sh', '/data', '--exp_name=-x', '--model_file', 'a')
    for args in (['--model_file', 'a.pkl'], ['--model_file=a.pkl']):
        arguments = project.arguments('inference.sh', '/data', *args)
        assert flags(arguments)['--model_file'] == 'a.pkl' and flags(arguments)['--exp_name'] == 'thumos14-inference'
        assert '--inference_only' in arguments


def test_inference_in_another_output_folder(project, tmp_path):
    weights = tmp_path / 'runs' / 'first' / 'best.pt'
    weights.parent.mkdir(parents=True)
    weights.touch()
    given = flags(project.arguments('inference.sh', '/data', '--exp_name=first', '--output_dir', 'runs', cwd=tmp_path))
    assert given['--model_file'] == 'runs/first/best.pt' and given['--output_dir'] == 'runs'


def test_released_weights_in_the_folder_of_a_run_come_before_its_own(project):
    folder = project.root / 'outputs' / 'AICL'
    folder.mkdir(parents=True)
    for name in ('best.pt', 'CAS_Only.pkl'):
        (folder / name).touch()
        given = flags(project.arguments('inference.sh', '/data', '--exp_name', 'AICL'))
        assert given['--model_file'] == str(folder / name) and given['--exp_name'] == 'AICL-inference'


def test_sample_training_and_inference_see_the_same_snippets(project):
    arguments = [project.arguments('train.sh'), project.arguments('inference.sh', '--model_file', 'a.pt')]
    assert len({flags(a)['--num_segments'] for a in arguments}) == 1


def test_inference_without_a_training_run_is_an_error(project):
    message = error_of(project.run('inference.sh', '--exp_name', 'first'))
    folder = project.root / 'outputs' / 'first'
    assert f'{folder} contains neither CAS_Only.pkl nor best.pt' in message and 'train' in message


def test_another_data_set_needs_a_data_folder(project):
    assert 'needs a data folder' in error_of(project.run('train.sh', '--dataset', 'activitynet1.3'))


def test_slurm_starts_one_torchrun_per_machine(project, tmp_path):
    (tmp_path / 'bin').mkdir()
    for name, text in (('scontrol', 'echo first; echo second'), ('srun', 'printf "%s\\n" "$@"')):
        (tmp_path / 'bin' / name).write_text(f'#!/usr/bin/env bash\n{text}\n')
        (tmp_path / 'bin' / name).chmod(0o755)
    project.environment['PATH'] = f'{tmp_path / "bin"}{os.pathsep}{project.environment["PATH"]}'
    job = {'SLURM_SUBMIT_DIR': str(project.root), 'SLURM_JOB_NODELIST': 'x', 'SLURM_NNODES': '2',
           'SLURM_GPUS_ON_NODE': '4', 'SLURM_JOB_ID': '7'}
    ended = project.run('slurm.sh', '/data', '--exp_name', 'first', cwd=tmp_path, **job)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    _, *words = ended.stdout.splitlines()
    assert words[1:6] == ['-m', 'torch.distributed.run', '--nnodes=2', '--nproc_per_node=4', '--rdzv_backend=c10d']
    assert '--rdzv_endpoint=first:20007' in words and '--resume' in words
    given = flags(words[words.index(str(project.root / 'main.py')):])
    assert given['--data_path'] == '/data' and given['--exp_name'] == 'first' and given['--device'] == 'cuda'
    assert 'sbatch' in error_of(project.run('slurm.sh', '/data'))
    assert 'data folder' in error_of(project.run('slurm.sh', **job))


HELP = {'train.sh': 'bash', 'inference.sh': 'bash', 'seeds.sh': 'bash', 'ablation.sh': 'bash', 'test.sh': 'bash',
        'localize.sh': 'bash', 'own_videos.sh': 'bash', 'slurm.sh': 'sbatch'}


def test_every_script_has_help():
    scripts = {path.name for path in (ROOT / 'scripts').glob('*.sh')}
    assert {name for name in scripts if not name.startswith('_')} == set(HELP)


@pytest.mark.parametrize('name', HELP)
@pytest.mark.parametrize('arguments', [['-h'], ['2', '--help']])
def test_help_is_the_head_of_the_script_and_runs_nothing(project, name, arguments):
    ended = project.run(name, *arguments)
    assert ended.returncode == 0 and not ended.stderr and f'{HELP[name]} scripts/{name}' in ended.stdout
    assert 'set -euo' not in ended.stdout and 'data_path' not in ended.stdout and not (project.root / 'data').exists()


def test_exit_status_is_that_of_main(project):
    assert project.run('train.sh', '/data', '--fail').returncode == 7
    assert project.run('inference.sh', '/data', '--fail', '--model_file', 'a.pt').returncode == 7


def test_a_signal_to_the_script_reaches_main(tmp_path):
    project = Project(tmp_path / 'my project', 'import signal, sys\n'
                      'signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n'
                      'print("ready", flush=True)\nsignal.pause()')
    with subprocess.Popen(['bash', project.root / 'scripts' / 'train.sh', '/data'], stdout=subprocess.PIPE, text=True,
                          env=project.environment) as script:
        while script.stdout.readline() != 'ready\n':
            pass
        script.send_signal(signal.SIGTERM)
        assert script.wait(10) == 143


# ---- the Python environment -----------------------------------------------------------------------------------------

def test_an_active_environment_is_used_and_printed(project):
    line, *_ = project.run('train.sh', '/data').stdout.splitlines()
    assert line.startswith(f'Using {Path(sys.executable).parent}/python') and ': Python 3.' in line
    assert line.endswith(f'torch {version("torch")}')
    assert not (project.root / '.venv').exists()


def test_files_in_the_folder_of_the_caller_are_not_imported(project, tmp_path):
    for name in ('packaging', 'importlib', 'numpy'):
        (tmp_path / f'{name}.py').write_text('raise SystemExit("the wrong file")')
    assert project.run('train.sh', '/data', cwd=tmp_path).stdout.startswith('Using ')


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
        ended = subprocess.run(['bash', '-c', '. "$1"; satisfies "$2" "$3"', 'bash', ROOT / 'scripts' / '_env.sh',
                                sys.executable, tmp_path / name], env=os.environ | {'PYTHONPATH': str(tmp_path)},
                               capture_output=True, text=True)
        assert (ended.returncode == 0) == satisfied
        assert (f', torch {installed}\n' in ended.stdout) == satisfied


def test_the_locked_versions_lie_within_the_bounds(tmp_path):
    """Each of them is made to look installed."""
    for line in (ROOT / 'requirements-lock.txt').read_text().splitlines():
        if not line.startswith('#'):
            name, found = line.split('==')
            folder = tmp_path / f'{name.replace("-", "_")}-{found}.dist-info'
            folder.mkdir()
            (folder / 'METADATA').write_text(f'Name: {name}\nVersion: {found}\n')
    for path in ROOT.glob('requirements*.txt'):
        ended = subprocess.run(['bash', '-c', '. "$1"; satisfies "$2" "$3"', 'bash', ROOT / 'scripts' / '_env.sh',
                                sys.executable, path], env=os.environ | {'PYTHONPATH': str(tmp_path)})
        assert ended.returncode == 0, path


def test_no_python_is_one_line(project):
    project.isolate(python=False)
    assert 'Python 3.11' in error_of(project.run('train.sh', '/data'))


def test_an_environment_that_cannot_be_created_is_one_line_with_the_reason(tmp_path):
    project = Project(tmp_path / 'a:b')  # venv refuses the separator of PATH
    project.isolate(python=False)
    (tmp_path / 'tools' / 'python3.11').symlink_to(sys.executable)
    assert 'because it contains the PATH separator' in error_of(project.run('train.sh', '/data'))


def installs(log: Path) -> int:
    """Return how often pip was started."""
    return sum(' pip install ' in line for line in log.read_text().splitlines())


def test_a_fresh_machine_gets_an_environment_once(project):
    log = project.isolate(python=True)
    first, second = (project.run('train.sh', '/data') for _ in range(2))
    python = project.root / '.venv' / 'bin' / 'python'
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    announced, collecting, downloading, processing, installing, used, ran = first.stdout.splitlines()
    assert 'requirements.txt' in announced and str(project.root / '.venv') in announced
    assert collecting.startswith('  Collecting torch') and '191.8 MB' in downloading and 'Installing ' in installing
    assert processing == f'  Processing {LONG_PATH}'  # not cut
    assert second.stdout == f'{used}\n{ran}\n' == f'Using {python}: Python 3.11.7, torch 2.13.0\nran {python}\n'
    assert installs(log) == 1


@pytest.mark.parametrize('gpu, environment, index', [
    (False, {}, CPU_INDEX),
    (False, {'NETWORK': 'down'}, None),
    (True, {}, None),
    (False, {'TORCH_INDEX': ''}, None),
    (True, {'TORCH_INDEX': 'https://there/cu126'}, 'https://there/cu126'),
])
def test_the_build_of_torch(project, gpu, environment, index):
    if Path('/proc/driver/nvidia').exists() and not gpu:
        pytest.skip('this machine has a GPU')
    log = project.isolate(python=True)
    if gpu:
        (project.root.parent / 'tools' / 'nvidia-smi').symlink_to(shutil.which('true'))
    ended = project.run('train.sh', '/data', **environment)
    assert ended.returncode == 0 and (index or 'the default index') in ended.stdout.splitlines()[0]
    pip, = (line for line in log.read_text().splitlines() if ' pip install ' in line)
    assert f'-c {project.root}/requirements-lock.txt' in pip
    assert pip.endswith(f'--extra-index-url {index}') if index else '--extra-index-url' not in pip


def test_a_killed_installation_is_started_again_from_nothing(project):
    log = project.isolate(python=True)
    assert project.run('train.sh', '/data', PIP='killed').returncode != 0
    (project.root / '.venv' / 'half a package').touch()
    ended = project.run('train.sh', '/data')
    assert ended.returncode == 0 and 'ran ' in ended.stdout
    assert not (project.root / '.venv' / 'half a package').exists()
    assert installs(log) == 2


def test_a_failing_pip_is_one_line_and_can_be_repeated(project):
    project.isolate(python=True)
    message = error_of(project.run('train.sh', '/data', PIP='fails'))
    assert 'No matching distribution found for torch==2.13.0' in message and 'requirements.txt' in message
    log = project.root / '.venv' / 'install.log'
    assert f'see {log}' in message and 'No matching distribution' in log.read_text()
    assert project.run('train.sh', '/data').returncode == 0


@pytest.mark.parametrize('name', ['requirements.txt', 'requirements-lock.txt'])
def test_changed_requirements_are_added_to_the_environment(project, name):
    log = project.isolate(python=True)
    assert project.run('train.sh', '/data').returncode == 0
    with open(project.root / name, 'a') as file:
        file.write('# changed\n')
    (project.root / '.venv' / 'my own').touch()
    for _ in range(2):
        assert project.run('train.sh', '/data').returncode == 0
    assert (project.root / '.venv' / 'my own').exists() and installs(log) == 2


def test_each_requirements_file_has_its_own_stamp(project):
    log = project.isolate(python=True)
    for script, expected in (('train.sh', 1), ('test.sh', 2), ('train.sh', 2), ('test.sh', 2)):
        assert project.run(script, '/data').returncode == 0
        assert installs(log) == expected


def test_an_environment_of_the_user_is_not_changed(project):
    log = project.isolate(python=True)
    (project.root / '.venv' / 'bin').mkdir(parents=True)
    (project.root / '.venv' / 'my own').touch()
    assert 'was not made by these scripts' in error_of(project.run('train.sh', '/data'))
    assert (project.root / '.venv' / 'my own').exists() and not log.exists()


def test_two_scripts_at_once_install_once(project):
    log = project.isolate(python=True)
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda _: project.run('train.sh', '/data'), range(3)))
    assert [e.returncode for e in ended] == [0, 0, 0], [e.stderr for e in ended]
    assert installs(log) == 1


# ---- with the real program ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('program', ['main.py', 'scripts/own_videos.py', 'scripts/sweep.py', 'scripts/convert.py',
                                     'scripts/make_sample.py'])
def test_programs_start_where_python_does_not_search_their_folder(tmp_path, program):
    command = [sys.executable, '-I', ROOT / program, '--help']
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout and not ended.stderr, ended.stderr


def test_a_flag_without_a_value_is_one_line(tmp_path):
    project = Project(tmp_path / 'my project', RUN_REAL_MAIN)
    assert '--exp_name' in error_of(project.run('train.sh', '--exp_name'))


def test_wrong_data_path_is_one_line(tmp_path):
    project = Project(tmp_path / 'my project', RUN_REAL_MAIN)
    assert str(tmp_path / 'nowhere') in error_of(project.run('train.sh', str(tmp_path / 'nowhere')))


def test_the_sample_is_learned_and_its_weights_localize_the_same(tmp_path):
    project = Project(tmp_path / 'my project', RUN_REAL_MAIN)
    small = ['--hidden_dim', '64']
    ended = project.run('train.sh', *small, '--lr', '1e-9', '--num_steps', '1', '--exp_name', 'untrained')
    assert ended.returncode == 0, ended.stderr
    ended = project.run('train.sh', *small, '--lr', '1e-3', '--num_steps', '50')
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == 'training: step 0/50, ? left\n' and '\r' not in ended.stdout  # neither a bar nor a warning
    assert re.search(r'^step 50/50, 00:00 left, mAP (\d\d\.\d\d) \(best \1\), [\d.]+ s/step, loss \d\.\d{3}$',
                     ended.stdout, re.MULTILINE)
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
