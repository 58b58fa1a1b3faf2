"""Recipes, the command line, and the settings of an earlier run.

The value of a flag is the one on the command line, else that of the resumed run or of the run that trained the
weights, else that of the recipe, else its default.
"""
import argparse
import os
import re
import textwrap
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from utils import InputError, Parser, bounded, is_utf8, preview, print_section, read_json, truncate, warn

PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp64')
MODALITIES = {'all': ('rgb', 'flow'), 'rgb': ('rgb',), 'flow': ('flow',)}  # --modal, and its feature streams
LAYOUTS = ('auto', 'two-stream', 'paired', 'joint', 'single')


# ---- recipes --------------------------------------------------------------------------------------------------------

class Recipe(NamedTuple):
    """Hyper-parameters that differ between data sets; each but `source` and the last three has a flag of this name.

    To let the recipes differ in another flag, add a field of its name.
    """

    source: str  # of the values
    tiou: list[float]
    num_segments: int | None = 50
    topk_ratio: int | None = 2
    hidden_dim: int = 512
    fusion_weight: float = 1 / 2
    # The supplement does not state these for ActivityNet: they are from the ActivityNet 1.3 code that AICL's first
    # author released later and named as the same code base.
    batch_size: int | None = 32
    drop_last: bool = True
    num_epochs: int | None = None
    num_steps: int | None = None
    detection_inf_step: int = 200
    seed: int = 0
    class_th: float = 0.1
    nms_thresh: float = 0.7
    lr: float = 1e-4
    contrast_ratio: int = 20
    normalize: bool = False
    feature_fps: float = 25.0
    snippet_frames: float = 16
    class_evidence: float | None = None  # an event has at least the score 1 - class_evidence * gamma; None: any score
    bins: str = 'activitynet'  # of the error diagnosis
    size: tuple[int, int, int] | None = None  # classes, training videos, test videos


ACTIVITYNET_SOURCE = ('tiou, num_segments, topk_ratio, hidden_dim, fusion_weight: supplement of the paper; '
                      'contrast_ratio 20 (K = 2): by analogy to the THUMOS14 code; the rest, not stated there: the '
                      "ActivityNet code that AICL's first author released later")
THUMOS14_TIOU = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
ACTIVITYNET_TIOU = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RECIPES = {
    'thumos14': Recipe(
        tiou=THUMOS14_TIOU, num_segments=750, topk_ratio=8, fusion_weight=1 / 3, batch_size=16,
        drop_last=False, num_epochs=900, num_steps=None, detection_inf_step=50, seed=1, class_th=0.25, nms_thresh=0.4,
        bins='thumos14', size=(20, 200, 210),
        source='supplement of the paper and the released code; contrast_ratio 20 (K = 37): released code, where the '
               'supplement states K = k/20 = 4'),
    'activitynet1.2': Recipe(ACTIVITYNET_SOURCE, ACTIVITYNET_TIOU, num_steps=50_000, size=(100, 4441, 2383)),
    'activitynet1.3': Recipe(ACTIVITYNET_SOURCE, ACTIVITYNET_TIOU, num_steps=50_000, hidden_dim=1024,
                             size=(200, 9649, 4926)),
    # None: chosen from the data, see engine.auto_config.
    'own': Recipe(
        tiou=THUMOS14_TIOU, num_segments=None, topk_ratio=None, batch_size=None, drop_last=False, num_steps=None,
        detection_inf_step=100, seed=1, class_th=0.01, nms_thresh=0.4, lr=3e-4, normalize=True, class_evidence=0.7,
        bins='thumos14',
        source='measured on real recordings, see docs/videos.md; num_segments, topk_ratio, batch_size, num_steps are '
               'chosen from the data'),
}
RECIPE_FLAGS = [name for name in Recipe._fields if name not in ('source', 'class_evidence', 'bins', 'size')]

# ---- flags ----------------------------------------------------------------------------------------------------------

# Flags of the released code that have no effect here.
LEGACY_NOOP = frozenset(('model_name', 'num_segments1', 'num_segments2', 'load_weight', 'verbose'))
# What a resumed run may change.
MUTABLE_ON_RESUME = LEGACY_NOOP | {
    'data_path', 'exp_name', 'output_dir', 'device', 'resume', 'overwrite', 'check', 'num_workers', 'cache', 'layout',
    'cuda_graphs', 'num_epochs', 'num_steps', 'figures', 'min_score', 'event_share', 'event_overlap', 'videos',
    'subtitles'}
# What runs may differ in and still count as one group, of which eval.summary takes the mean.
IGNORED_FOR_GROUPING = LEGACY_NOOP | {
    'exp_name', 'output_dir', 'inference_only', 'model_file', 'device', 'resume', 'overwrite', 'check', 'seed',
    'num_workers', 'cache', 'cuda_graphs', 'log_every', 'figures', 'min_score', 'event_share', 'event_overlap',
    'videos', 'subtitles'}
# What weights are trained with, and how they are used to localize: both are read from the args.json of the weights.
MODEL_FLAGS = frozenset(('modal', 'normalize', 'num_segments', 'feature_fps', 'snippet_frames', 'hidden_dim',
                         'fusion_weight', 'topk_ratio'))
POSTPROCESS_FLAGS = frozenset(('class_th', 'scale', 'oic_margin', 'oic_class_weight', 'nms_thresh', 'nms_alpha',
                               'soft_nms', 'tiou', 'known_labels'))


def relative_run_name(text: str) -> str:
    """Return the name of a run; an argparse type."""
    path = Path(text)
    if path == Path() or path.is_absolute() or '..' in path.parts:
        raise argparse.ArgumentTypeError(f'{text!r} is not the name of a folder in OUTPUT_DIR')
    return str(path)  # without a slash at the end, which completion adds


def step_interval(text: str) -> int:
    """Return a number of steps, 0 for 'never'; an argparse type."""
    try:
        return 0 if text == 'never' else bounded(int, 0)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps nor 'never'") from None


def frame_rate(text: str) -> float | str:
    """Return a frame rate, or 'video' for the rate of each video; an argparse type."""
    try:
        return text if text == 'video' else bounded(float, 1e-9)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a frame rate nor 'video'") from None


def get_parser(description: str | None = None) -> Parser:
    """Return the parser of main.py; flags with a value in the recipes have the default None."""
    sources = [f'{name}: {recipe.source}.' for name, recipe in RECIPES.items()]
    lines = ['sources of the recipes:', *sources]
    epilog = '\n'.join(textwrap.fill(line, 100, subsequent_indent='  ') for line in lines)
    parser = Parser(prog='main.py', description=description, epilog=epilog, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    switch = argparse.BooleanOptionalAction
    positive_int, fraction = bounded(int, 1), bounded(float, 0, 1)
    nonnegative_float, positive_float = bounded(float, 0), bounded(float, 1e-9)

    run = parser.add_argument_group('run').add_argument
    run('--dataset', choices=RECIPES, help='hyper-parameter preset; explicit flags override it (unset: own for a '
        'folder with labels.csv and no gt.json, otherwise thumos14)')
    run('--data_path', help='data folder: features, annotations, split lists')
    run('--exp_name', type=relative_run_name, help='name of the run')
    run('--output_dir', default='outputs', help='files are written to OUTPUT_DIR/EXP_NAME')
    run('--inference_only', action='store_true', help='localize and evaluate with the weights of --model_file')
    run('--model_file', help='weights file of this program or of the released code')
    run('--check', action='store_true', help='check the data folder with the flags of the training, then exit')
    run('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    run('--precision', choices=PRECISIONS, default='fp32', help='matmul precision; fp64 is for comparisons with the '
        'reference')
    run('--resume', action='store_true', help='resume the run of this name from its checkpoint, or start it')
    run('--overwrite', action='store_true', help='replace the run of this name')
    run('--seed', type=bounded(int, -1, 2 ** 32 - 1), help='random seed; -1 draws one')
    run('--num_workers', type=bounded(int, 0, 256), default=0, help='DataLoader workers')

    data = parser.add_argument_group('data').add_argument
    data('--cache', choices=('auto', 'ram', 'device', 'none'), default='auto',
         help='where features are kept: auto picks what fits, none reads the sampled snippets from disk')
    data('--layout', choices=LAYOUTS, default='auto', help='feature file layout; auto detects it')
    data('--modal', choices=MODALITIES, help='feature streams to use (unset: those in the data folder)')
    data('--normalize', action=switch, help='standardize features by the mean and deviation of the training snippets')
    data('--num_segments', type=positive_int, help='T, snippets sampled per video')
    data('--feature_fps', type=frame_rate, help="frame rate of the features; 'video': that of each video, by its "
         'duration or fps in gt.json or extraction.json')
    data('--snippet_frames', type=positive_float, help='frames per snippet (stride of the features)')

    network = parser.add_argument_group('network').add_argument
    network('--hidden_dim', type=positive_int, help='H, width of the embeddings')
    network('--fusion_weight', type=fraction, help='gamma: weight of the class scores in A_score')
    network('--topk_ratio', type=positive_int,
            help='k = T // topk_ratio snippets are pooled into each video-level logit')
    # quirk: K = T // 20 as in the released code; the supplement has K = k/20
    network('--contrast_ratio', type=positive_int, help='K = T // contrast_ratio snippets are mined per set')

    training = parser.add_argument_group('training').add_argument
    training('--batch_size', type=positive_int, help='videos per step, over all processes')
    training('--drop_last', action=switch, help='drop the last, smaller batch of an epoch')
    training('--num_epochs', type=positive_int, help='length in epochs')
    training('--num_steps', type=positive_int, help='length in steps; overrides --num_epochs')
    training('--lr', type=bounded(float, 0, 1e38), help='learning rate of Adam')
    training('--weight_decay', type=nonnegative_float, default=5e-4, help='weight decay of Adam')
    training('--q_val', type=bounded(float, 1e-9, 1), default=0.7, help='q of the generalized cross entropy')
    training('--lambda_modality', type=nonnegative_float, default=5.0, help='weight of the modality consistency')
    training('--lambda_contrast', type=nonnegative_float, default=0.01, help='weight of the contrastive terms')
    training('--lambda_action', type=nonnegative_float, default=0.1, help='weight of the action consistency')
    training('--detection_inf_step', type=step_interval, metavar='STEPS',
             help="evaluate every STEPS steps and at the end; 'never': only at the end")
    training('--cuda_graphs', action=switch, default=True,
             help='replay steps as CUDA graphs on a single GPU, where they can be captured')
    training('--log_every', type=positive_int, default=1, metavar='N', help='write a row of losses.csv every N steps')
    training('--figures', type=bounded(int, 0), default=2,
             help='timelines per evaluation in TensorBoard, at most every minute')

    inference = parser.add_argument_group('localization and evaluation').add_argument
    inference('--class_th', type=fraction, help='minimum video-level class probability')
    inference('--scale', type=positive_int, default=24, help='temporal upsampling factor before thresholding')
    # quirk: the released --gamma, meant as the weight of the class score, sets the margin, so it is an alias of it
    inference('--oic_margin', '--gamma', type=nonnegative_float, default=0.2,
              help='outer region of the outer-inner contrast (--gamma is the released name)')
    inference('--oic_class_weight', type=nonnegative_float, default=0.2,
              help='weight of the class probability in the score of a proposal')
    inference('--nms_thresh', type=fraction, help='overlap from which NMS suppresses a proposal')
    inference('--nms_alpha', type=positive_float, default=0.35, help='decay of soft NMS')
    inference('--soft_nms', action=switch, default=True, help='soft NMS; --no-soft_nms is hard NMS')
    inference('--tiou', type=bounded(float, 1e-9, 1), nargs='+', help='tIoU thresholds of the mAP: '
              'numbers, or start:step:stop as 0.5:0.05:0.95')
    inference('--known_labels', action=switch, default=False,
              help='localize the given video-level labels instead of predicted classes')

    outputs = parser.add_argument_group('outputs').add_argument
    outputs('--min_score', type=bounded(float, -1e9),
            help='minimum score of events (unset: 1 - 0.7 gamma in the recipe own, otherwise none), and initial '
                 'minimum in the report (unset: the threshold of best F1 on the test videos of the training, if '
                 'known); detections.json contains all detections')
    outputs('--event_share', type=fraction, default=0.7,
            help='minimum score of an event, as a fraction of the best one of its video and class')
    outputs('--event_overlap', type=bounded(float, 0, 0.5), default=0.1,
            help='maximum overlap of two events of a class, as a fraction of the shorter')
    outputs('--videos', metavar='DIR', help='folder of video files that the report plays')
    outputs('--subtitles', choices=('srt', 'vtt'), help='also write the events of every video as subtitles')

    released = parser.add_argument_group('flags of the released code, accepted without effect').add_argument
    released('--model_name', help='there is only one network')
    released('--num_segments1', type=int, help='not used by the method')
    released('--num_segments2', type=int, help='not used by the method')
    released('--load_weight', action='store_true', help='--inference_only loads weights')
    released('--verbose', action='store_true', help='progress is always shown')

    for action in parser._actions:
        if action.dest in RECIPE_FLAGS:
            values = {name: show_value(getattr(recipe, action.dest)) for name, recipe in RECIPES.items()}
            distinct = set(values.values())
            by_recipe = ', '.join(f'{name} {value}' for name, value in values.items())
            listed = by_recipe if len(distinct) > 1 else distinct.pop()
            action.help = f'{action.help} (recipes: {listed})'
        elif action.default not in (None, False, argparse.SUPPRESS):
            action.help = f'{action.help} (default: {show_value(action.default)})'
    return parser


def show_value(value: object) -> str:
    """Return a value for a message."""
    if value is None:
        return 'unset'
    if isinstance(value, list):
        return f'{value[0]:g} to {value[-1]:g}'
    return f'{value:g}' if isinstance(value, float) else str(value)


# ---- from the command line to values --------------------------------------------------------------------------------

class Config(NamedTuple):
    """The value of every flag, and where it comes from."""

    args: argparse.Namespace
    given: dict[str, Any]   # on the command line
    stored: dict[str, Any]  # from the args.json of the resumed run, or of the run that trained the weights
    source: Path | None     # this args.json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the value of every flag."""
    return resolve_config(argv).args


def resolve_config(argv: list[str] | None = None, description: str | None = None) -> Config:
    """Parse the command line; unset flags come from an earlier run, else from the recipe, else from the defaults."""
    parser = get_parser(description)
    given = parse_explicit(get_parser(description), argv)
    check_usage(parser, given)
    source = find_args_json(given)
    if given.get('resume') and not source:
        check_resumed_name(parser, Path(given.get('output_dir', 'outputs')), given.get('exp_name', ''))
    try:
        stored = load_args_json(source, given) if source else {}
    except InputError as error:
        parser.exit(2, f'error: {error}\n')
    if given.keys() & {'num_steps', 'num_epochs'}:  # a given length replaces any other, whatever its unit
        given = {'num_steps': None, 'num_epochs': None, **given}
    dataset = {**stored, **given}.get('dataset') or default_dataset(given)
    values = {**default_values(dataset), **stored, **given}
    if given.get('resume') and not source and values['data_path'] is None and values['exp_name']:
        parser.error(f'{Path(values["output_dir"]) / values["exp_name"]}: there is no run to resume; give the '
                     f'--output_dir and --exp_name of a run, or --data_path to start one')
    if values['data_path'] is None or values['exp_name'] is None and not values['check']:
        parser.error(f'the following arguments are required: --{"exp_name" if values["data_path"] else "data_path"}')
    if values['inference_only'] and not values['model_file']:
        values['model_file'] = find_weights(parser, values)
    if values['inference_only']:
        values['batch_size'] = values['batch_size'] or 16
        if values['num_segments'] is None or values['topk_ratio'] is None:
            parser.error(f'{values["model_file"]}: without the args.json of its run in the same folder, --dataset own '
                         f'needs --num_segments and --topk_ratio')
    if values['seed'] == -1:
        values['seed'] = int.from_bytes(os.urandom(4))
    for name, value in values.items():
        if isinstance(value, str) and not is_utf8(value):
            parser.error(f'argument --{name}: {truncate(value)} is not UTF-8, which all written files are; rename it')
    return Config(argparse.Namespace(**values), given, stored, source)


def parse_explicit(parser: Parser, argv: list[str] | None) -> dict[str, Any]:
    """Parse a command line without any default."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def default_values(dataset: str) -> dict[str, Any]:
    """Return the value of every flag in a recipe and the defaults."""
    recipe = RECIPES[dataset]
    return {**flag_defaults(), 'dataset': dataset, **{name: getattr(recipe, name) for name in RECIPE_FLAGS}}


@cache
def flag_defaults() -> dict[str, Any]:
    """Return the default of every flag, None for those of the recipes."""
    return {action.dest: action.default for action in get_parser()._actions if action.dest != 'help'}


def default_dataset(given: dict[str, Any]) -> str:
    """Return the recipe of a data folder without --dataset: own for a labels.csv without gt.json."""
    root = given.get('data_path', '')
    has_labels, has_gt = (os.path.isfile(os.path.join(root, name)) for name in ('labels.csv', 'gt.json'))
    return 'own' if has_labels and not has_gt else 'thumos14'


def check_usage(parser: Parser, given: dict[str, Any]) -> None:
    """End with a message where flags contradict each other."""
    inference = given.get('inference_only')
    if given.get('model_file') and not inference:
        parser.error('--model_file is for --inference_only')
    if inference and (given.get('resume') or given.get('overwrite')):
        parser.error('--resume and --overwrite are for training')
    if given.get('check') and inference:
        parser.error('--check is for training')
    if len({f'{tiou:.10g}' for tiou in given.get('tiou', [])}) < len(given.get('tiou', [])):
        parser.error('--tiou: a tIoU threshold is given twice; give each one once')
    if given.get('resume') and given.get('overwrite'):
        parser.error('--resume continues a run and --overwrite replaces it; give one')


def find_args_json(given: dict[str, Any]) -> Path | None:
    """Return the args.json of the weights or of the run to resume, None for a new run."""
    folder = Path(given.get('output_dir', 'outputs')) / given.get('exp_name', '')
    if given.get('inference_only'):
        folder = Path(given['model_file']).parent if given.get('model_file') else folder
    elif not given.get('resume'):
        return None
    # os.path.lexists is False, without an error, for an unreadable folder and a name that is too long.
    return folder / 'args.json' if os.path.lexists(folder / 'args.json') else None


def check_resumed_name(parser: Parser, output_dir: Path, name: str) -> None:
    """End with a list of runs where the run to resume does not exist and the name of another one is almost the same.

    Numbers and words that differ, as in first-seed1 and first-seed2, are other runs.
    """
    def parts(name: str) -> tuple[list[str], list[str]]:
        return re.findall(r'\d+', name), re.findall(r'[^\W\d_]+', name.casefold())

    folder = output_dir / name
    if not name or os.path.lexists(folder):
        return
    path = Path(name)
    if os.path.lexists(path / 'args.json'):
        parser.error(f'{folder}: there is no such run; {path} is one: give --output_dir {path.parent} --exp_name '
                     f'{path.name}')
    runs = sorted(path.parent.name for path in folder.parent.glob('*/args.json'))
    numbers, words = parts(folder.name)
    for run in runs:
        other_numbers, other_words = parts(run)
        if numbers == other_numbers and len(words) == len(other_words) and all(
                get_close_matches(word, [other], 1, 0.75) for word, other in zip(words, other_words)):
            parser.error(f'{folder}: there is no such run; did you mean --exp_name {run}? Runs in {folder.parent}: '
                         f'{preview(runs, 5)}. Leave out --resume to start a new one')


def load_args_json(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the flags to take from an args.json, parsed as a command line.

    All flags of a resumed run; for inference those that weights depend on, with the postprocessing only where the
    recipe is the same. Raises InputError for invalid values.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f'{path}: must contain an object of arguments; fix it, or remove it and give the flags')
    actions = {action.dest: action for action in get_parser()._actions}
    names = set(actions) - {'help', 'output_dir', 'exp_name', 'resume', 'overwrite', 'check', 'inference_only',
                            'model_file'}
    if given.get('inference_only'):
        names = {'dataset', 'batch_size', 'layout', *MODEL_FLAGS}
        if given.get('dataset', content.get('dataset')) == content.get('dataset'):
            names |= POSTPROCESS_FLAGS

    parser = get_parser()
    name = ''

    def refuse(reason: str) -> NoReturn:
        raise InputError(f'{path}: "{name}" is {truncate(content[name], 40)!r}, which --{name} does not accept '
                         f'({truncate(reason, 80)}); fix it, or remove the file and give the flags')

    parser.error = refuse  # type: ignore[method-assign,assignment]
    stored: dict[str, Any] = {}
    for name in sorted(names & content.keys()):
        value, action = content[name], actions[name]
        if value is None and not is_optional(name):
            refuse('no value')
        if (action.nargs == '+') != isinstance(value, list) or value == []:
            refuse('not a list' if action.nargs == '+' else 'a list')
        if action.nargs == 0 and type(value) is not bool:
            refuse('not true or false')
        stored[name] = value
        if value is not None and action.nargs != 0:
            stored |= parse_explicit(parser, [f'--{name}', *map(str, value)] if isinstance(value, list) else
                                     [f'--{name}={value}'])
    return stored


def is_optional(name: str) -> bool:
    """Return whether a flag may be unset: where it is in some recipe without any args.json."""
    return any(default_values(dataset)[name] is None for dataset in RECIPES)


def find_weights(parser: Parser, values: dict[str, Any]) -> str:
    """Return the weights in the folder of this run, as the released code finds them."""
    folder = Path(values['output_dir']) / values['exp_name']
    for name in ('CAS_Only.pkl', 'best.pt'):
        if os.path.isfile(folder / name):
            return str(folder / name)
    return parser.error(f'--inference_only needs --model_file: {folder} contains neither CAS_Only.pkl nor best.pt')


class Choice(NamedTuple):
    """A value chosen from the training data for a flag, and why."""

    flag: str
    value: int
    reason: str


def fill_unset(args: argparse.Namespace, choices: list[Choice]) -> list[str]:
    """Set the flags that are unset to the values chosen for them; return a line for each."""
    unset = [choice for choice in choices if getattr(args, choice.flag) is None]
    if args.num_epochs is not None:
        unset = [choice for choice in unset if choice.flag != 'num_steps']
    for choice in unset:
        setattr(args, choice.flag, choice.value)
    return [f'--{choice.flag} {choice.value}: {choice.reason}' for choice in unset]


# ---- messages -------------------------------------------------------------------------------------------------------

def changed_settings(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and default of the settings that differ from the recipe and the defaults."""
    usual = {name: value for name, value in default_values(values['dataset']).items()
             if name in RECIPE_FLAGS or value is not None and name not in IGNORED_FOR_GROUPING}
    return [(name, show_value(values[name]), show_value(value)) for name, value in usual.items()
            if name in values and values[name] != value]


def format_recipe(args: argparse.Namespace) -> list[str]:
    """Return the recipe's values in use, their source, and what differs from the recipe and the defaults."""
    values, usual = vars(args), default_values(args.dataset)
    kept = [f'{name} {show_value(values[name])}' for name in RECIPE_FLAGS
            if values[name] == usual[name] and values[name] is not None]
    changed = [f'{name} {value} ({default})' for name, value, default in changed_settings(values)]
    lines = [f'{args.dataset}: {", ".join(kept)}', RECIPES[args.dataset].source]
    return lines + ([f'changed (default in parentheses): {", ".join(changed)}'] if changed else [])


def print_overrides(config: Config) -> None:
    """Print which settings come from an earlier run, which differ from it, and which flags have no effect."""
    args, source = config.args, config.source
    effects = {action.dest: action.help for action in get_parser()._actions}
    for name in sorted(LEGACY_NOOP & config.given.keys()):
        print(f'note     --{name} has no effect: {effects[name]}')
    if config.given.get('seed') == -1:
        print(f'note     --seed -1: the seed of this run is {args.seed}')
    if source is None:
        return
    if args.inference_only:
        for name in sorted(MODEL_FLAGS & config.stored.keys()):
            if config.stored[name] != vars(args)[name]:
                warn(f'{args.model_file}: was trained with --{name} {truncate(config.stored[name], 40)}, and is used '
                     f'with {vars(args)[name]}')
    usual = default_values(args.dataset)
    taken = [f'{name} {show_value(value)}' for name, value in sorted(config.stored.items())
             if name not in config.given and value != usual[name] and (name, value) != ('modal', 'all')]
    if taken:
        print_section('note', [f'from {source}: {", ".join(taken)}'])
