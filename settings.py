"""The settings of a command line: recipes, flags, and where the value comes from that nobody gave.

A flag is declared once, in `get_parser`, with all that others must know of it. Its value is that on the command line,
else that of the run that goes on or whose weights are used, else that of the recipe, else its default.
"""
import argparse
import os
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from utils import (FlagParser, InputError, is_text, number, print_block, read_json, shorten, show_value, warn)

# The values that a flag may take, for the rooms that act on them as well.
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp64')
MODALITIES = {'all': ('rgb', 'flow'), 'rgb': ('rgb',), 'flow': ('flow',)}    # --modal, and the streams that it means
LAYOUTS = ('auto', 'two-stream', 'paired', 'joint', 'single')


# ---- the recipes ----------------------------------------------------------------------------------------------------

class Recipe(NamedTuple):
    """What differs between the data sets (supplement of the paper); every value has a flag of its own."""
    tiou: list[float]
    num_segments: int = 50
    topk_ratio: int = 2
    hidden_dim: int = 512
    fusion_weight: float = 1 / 2
    # For ActivityNet the supplement is silent on these: they are from the ActivityNet 1.3 code that AICL's first author
    # released later and named as the same code base.
    batch_size: int = 32
    drop_last: bool = True
    num_epochs: int | None = None
    num_steps: int | None = 50_000
    detection_inf_step: int = 200
    seed: int = 0
    class_th: float = 0.1
    nms_thresh: float = 0.7
    # Not options:
    bins: str = 'activitynet'    # of the error diagnosis
    source: str = ('tiou, num_segments, topk_ratio, hidden_dim, fusion_weight as in the supplement of the paper; '
                   "the rest, not stated there, from the ActivityNet code that AICL's first author released later")


ACTIVITYNET_TIOU = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RECIPES = {
    'thumos14': Recipe(
        tiou=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], num_segments=750, topk_ratio=8, fusion_weight=1 / 3, batch_size=16,
        drop_last=False, num_epochs=900, num_steps=None, detection_inf_step=50, seed=1, class_th=0.25, nms_thresh=0.4,
        bins='thumos14', source='supplement of the paper and the released code'),
    'activitynet1.2': Recipe(tiou=ACTIVITYNET_TIOU),
    'activitynet1.3': Recipe(tiou=ACTIVITYNET_TIOU, hidden_dim=1024),
}
IN_RECIPE = [name for name in Recipe._fields if name not in ('bins', 'source')]    # each has a flag


# ---- the command line -----------------------------------------------------------------------------------------------

# What else is to be known of a flag, said where it is declared:
RESUME = 'a resumed run may change it'
DIFFER = 'runs that differ in it are still runs of one kind, of which eval.summary takes the mean'
TRAINED = 'weights are made for one value of it'
LOCALIZE = 'it changes how weights localize'
RELEASED = "a flag of the released code that does nothing here"


def run_name(text: str) -> str:
    path = Path(text)
    if path == Path() or path.is_absolute() or '..' in path.parts:
        raise argparse.ArgumentTypeError(f'{text!r} does not name a folder in OUTPUT_DIR')
    return text


def step_interval(text: str) -> int:
    try:
        return 0 if text == 'never' else number(int, 0)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps nor 'never'") from None


def get_parser(description: str | None = None) -> FlagParser:
    epilog = textwrap.fill(f'recipes: thumos14: {RECIPES["thumos14"].source}. activitynet: '
                           f'{RECIPES["activitynet1.3"].source}.', 100)
    parser = FlagParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter,
                        allow_abbrev=False)
    switch = argparse.BooleanOptionalAction
    count, amount, positive, share = number(int, 1), number(float, 0), number(float, 1e-9), number(float, 0, 1)

    run = parser.section('run')
    run.flag('--dataset', choices=RECIPES, default='thumos14', help='sets the recipe; other flags win over it')
    run.flag('--data_path', traits=(RESUME,), help='folder of features, gt.json and split files')
    run.flag('--exp_name', type=run_name, required=True, traits=(RESUME, DIFFER), help="the run's name")
    run.flag('--output_dir', default='outputs', traits=(RESUME, DIFFER), help='files go to OUTPUT_DIR/EXP_NAME')
    run.flag('--inference_only', action='store_true', traits=(DIFFER,), help='localize and evaluate with --model_file')
    run.flag('--model_file', traits=(DIFFER,), help='weights to load: released or written here')
    run.flag('--device', default='auto', traits=(RESUME, DIFFER), help='auto, cpu, cuda or cuda:N')
    run.flag('--precision', choices=PRECISIONS, default='fp32',
             help='tf32 and bf16 speed up the large products on a GPU; fp64 is for comparisons')
    run.flag('--resume', action='store_true', traits=(RESUME, DIFFER),
             help='go on where the run of this name stopped, or begin it')
    run.flag('--overwrite', action='store_true', traits=(RESUME, DIFFER), help='replace the run of this name')
    run.flag('--seed', type=number(int, -1, 2 ** 32 - 1), traits=(DIFFER,),
             help='of every random number; -1 draws one')
    run.flag('--num_workers', type=number(int, 0, 256), default=0, traits=(RESUME, DIFFER),
             help='processes that read features')

    data = parser.section('data')
    data.flag('--cache', choices=('auto', 'ram', 'device', 'none'), default='auto', traits=(RESUME, DIFFER),
              help='where features are kept: auto takes what fits, none reads sampled rows from disk')
    data.flag('--layout', choices=LAYOUTS, default='auto', traits=(RESUME,),
              help='of the feature files: auto looks, single are files of one stream alone')
    data.flag('--modal', choices=MODALITIES, default='all', traits=(TRAINED,), help='feature streams to use')
    data.flag('--num_segments', type=count, traits=(TRAINED,), help='T, snippets sampled from a video')
    data.flag('--feature_fps', type=positive, default=25.0, traits=(TRAINED,), help='frames a second at extraction')
    data.flag('--snippet_frames', type=positive, default=16, traits=(TRAINED,), help='frames a feature row')

    model = parser.section('network')
    model.flag('--hidden_dim', type=count, traits=(TRAINED,), help='H, width of the embeddings')
    model.flag('--fusion_weight', type=share, traits=(TRAINED,),
               help='g, share of the class scores in the selection score')
    model.flag('--topk_ratio', type=count, traits=(TRAINED,), help='k = T // this snippets make a video logit')
    model.flag('--contrast_ratio', type=count, default=20, help='K = T // this snippets are mined a set')

    training = parser.section('training')
    training.flag('--batch_size', type=count, help='videos a step')
    training.flag('--drop_last', action=switch, help='leave out the last, smaller batch of an epoch')
    training.flag('--num_epochs', type=count, traits=(RESUME,), help='length of the training')
    training.flag('--num_steps', type=count, traits=(RESUME,), help='wins over --num_epochs')
    training.flag('--lr', type=number(float, 0, 1e38), default=1e-4, help='learning rate of Adam')
    training.flag('--weight_decay', type=amount, default=5e-4, help='weight decay of Adam')
    training.flag('--q_val', type=number(float, 1e-9, 1), default=0.7, help='q of generalized cross entropy')
    training.flag('--lambda_modality', type=amount, default=5.0, help='weight of the modality consistency')
    training.flag('--lambda_contrast', type=amount, default=0.01, help='weight of the contrastive terms')
    training.flag('--lambda_action', type=amount, default=0.1, help='weight of the action consistency')
    training.flag('--detection_inf_step', type=step_interval, metavar='STEPS',
                  help="evaluate every so many steps, and at the end; 'never': only there")
    training.flag('--log_every', type=count, default=1, traits=(DIFFER,),
                  help='steps from one row of losses.csv to the next')
    training.flag('--figures', type=number(int, 0), default=2, traits=(RESUME, DIFFER),
                  help='timelines that TensorBoard shows of an evaluation, at most every 30 seconds')

    inference = parser.section('localization and evaluation')
    inference.flag('--class_th', type=share, traits=(LOCALIZE,), help='probability from which a class is localized')
    inference.flag('--scale', type=count, default=24, traits=(LOCALIZE,), help='samples a snippet after upsampling')
    # quirk: the released --gamma, meant to be the weight of the class score, sets the margin, so it is its other name
    inference.flag('--oic_margin', '--gamma', type=amount, default=0.2, traits=(LOCALIZE,),
                   help='outer part of the outer-inner contrast (--gamma is the released name)')
    inference.flag('--oic_class_weight', type=amount, traits=(LOCALIZE,), default=0.2,
                   help='weight of the class probability')
    inference.flag('--nms_thresh', type=share, traits=(LOCALIZE,), help='overlap from which a proposal is suppressed')
    inference.flag('--nms_alpha', type=positive, traits=(LOCALIZE,), default=0.35, help='decay of soft NMS')
    inference.flag('--soft_nms', action=switch, default=True, traits=(LOCALIZE,),
                   help='lower the score of what is suppressed, or drop it')
    inference.flag('--tiou', type=number(float, 1e-9, 1), nargs='+', traits=(LOCALIZE,),
                   help='tIoU thresholds of the mAP')
    inference.flag('--known_labels', action='store_true', traits=(LOCALIZE,),
                   help='of a video with labels, localize these and no other class')

    outputs = parser.section('what comes out')
    outputs.flag('--min_score', type=number(float, -1e9), traits=(RESUME, DIFFER),
                 help='score from which detections are shown in the report and in subtitles; detections.json holds all '
                      '(without it: that of best F1 on the test videos of the training, where it is known)')
    outputs.flag('--videos', traits=(RESUME, DIFFER), metavar='DIR',
                 help='folder of the video files: the report plays them')
    outputs.flag('--subtitles', choices=('srt', 'vtt'), traits=(RESUME, DIFFER),
                 help='also write subtitles of every video, to the folder subtitles')

    released = parser.section('flags of the released code, accepted so that its command lines work')
    released.flag('--model_name', traits=(RELEASED, RESUME, DIFFER), help='there is one network here')
    released.flag('--num_segments1', type=int, traits=(RELEASED, RESUME, DIFFER), help='the method does not use it')
    released.flag('--num_segments2', type=int, traits=(RELEASED, RESUME, DIFFER), help='the method does not use it')
    released.flag('--load_weight', action='store_true', traits=(RELEASED, RESUME, DIFFER),
                  help='--inference_only loads weights')
    released.flag('--verbose', action='store_true', traits=(RELEASED, RESUME, DIFFER),
                  help='progress is always shown')
    recipes = {name: [getattr(recipe, name) for recipe in RECIPES.values()] for name in IN_RECIPE}
    parser.tell_values(recipes)
    return parser


class Settings(NamedTuple):
    """The value of every flag, and where those come from that nobody gave."""
    args: argparse.Namespace
    given: dict[str, Any]     # on the command line
    stored: dict[str, Any]    # from the args.json of the run that goes on, or whose weights are used
    source: Path | None       # that file


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return get_settings(argv).args


def get_settings(argv: list[str] | None = None, description: str | None = None) -> Settings:
    """Parse flags; what is not given comes from the run that goes on or gave the weights, else from the recipe."""
    parser = get_parser(description)
    given = vars(parser.parse_args(argv))
    check_usage(parser, given)
    source = find_arguments(given)
    try:
        stored = read_arguments(parser, source, given)
    except InputError as error:
        parser.exit(2, f'error: {error}\n')
    if given.keys() & {'num_steps', 'num_epochs'}:    # a length that is given replaces any other, whatever its unit
        given = {'num_steps': None, 'num_epochs': None, **given}
    dataset = given.get('dataset', stored.get('dataset', parser.defaults['dataset']))
    values = {**usual_values(parser, dataset), **stored, **given}
    for name in ('data_path', 'exp_name'):
        if values[name] is None:
            parser.error(f'the following arguments are required: --{name}')
    if values['inference_only'] and not values['model_file']:
        values['model_file'] = find_weights(parser, values)
    if values['num_steps'] is values['num_epochs'] is None:
        parser.error('one of --num_steps and --num_epochs is needed: args.json has neither')
    if values['seed'] == -1:
        values['seed'] = int.from_bytes(os.urandom(4))
    for name, value in values.items():
        if isinstance(value, str) and not is_text(value):
            parser.error(f'argument --{name}: {shorten(value)} is not UTF-8, as all texts that are written; rename it')
    return Settings(argparse.Namespace(**values), given, stored, source)


def usual_values(parser: FlagParser, dataset: str) -> dict[str, Any]:
    """The value of every flag that a recipe and the defaults give."""
    return {**parser.defaults, **{name: getattr(RECIPES[dataset], name) for name in IN_RECIPE}}


def check_usage(parser: FlagParser, given: dict[str, Any]) -> None:
    """End with a message where flags contradict each other."""
    inference = given.get('inference_only')
    if given.get('model_file') and not inference:
        parser.error('--model_file is for --inference_only')
    if inference and (given.get('resume') or given.get('overwrite')):
        parser.error('--resume and --overwrite are for training')
    if given.get('resume') and given.get('overwrite'):
        parser.error('--resume goes on with a run and --overwrite replaces it; give one')


def find_arguments(given: dict[str, Any]) -> Path | None:
    """The args.json that settings come from: beside the weights, or of the run that goes on. None for a new run."""
    folder = Path(given.get('output_dir', 'outputs')) / given.get('exp_name', '')
    if given.get('inference_only'):
        folder = Path(given['model_file']).parent if given.get('model_file') else folder
    elif not given.get('resume'):
        return None
    # False, and no error, where a folder may not be entered or a name is too long: that is said when it is used.
    return folder / 'args.json' if os.path.isfile(folder / 'args.json') else None


def read_arguments(parser: FlagParser, path: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """What an args.json says of the flags that matter now: of all for a resume, else of those that weights depend on.

    How weights localize is not taken over where another recipe is given. Raises InputError for values that are none.
    """
    if path is None:
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f'{path}: must be an object of arguments; mend it, or remove it and give the flags')
    names = set(parser.defaults) - {'output_dir', 'exp_name', 'resume', 'overwrite', 'inference_only', 'model_file'}
    if given.get('inference_only'):
        names = {'dataset', *parser.with_trait(TRAINED, LOCALIZE)}
        if given.get('dataset', content.get('dataset')) != content.get('dataset'):
            names -= set(parser.with_trait(LOCALIZE))
    stored = {}
    for name in names & content.keys():
        try:
            if content[name] is None and not may_be_none(parser, name):
                raise ValueError('no value')
            stored[name] = parser.check(name, content[name])
        except ValueError as error:
            raise InputError(f'{path}: "{name}" is {shorten(content[name], 40)!r}, which --{name} does not take '
                             f'({shorten(error, 80)}); mend it, or remove the file and give the flags') from None
    return stored


def may_be_none(parser: FlagParser, name: str) -> bool:
    """Whether a flag may be without value: where it is so without any args.json."""
    return None in [usual_values(parser, dataset)[name] for dataset in RECIPES]


def find_weights(parser: FlagParser, values: dict[str, Any]) -> str:
    """The weights in the folder of this name, as the released code would find them."""
    folder = Path(values['output_dir']) / values['exp_name']
    for name in ('CAS_Only.pkl', 'best.pt'):
        if os.path.isfile(folder / name):
            return str(folder / name)
    return parser.error(f'--inference_only needs --model_file: {folder} has neither CAS_Only.pkl nor best.pt')


# ---- what a run says of its settings ---------------------------------------------------------------------------------

def describe_recipe(args: argparse.Namespace) -> list[str]:
    """The recipe's values that hold, with their source, and what differs from it and from the defaults."""
    parser, values = get_parser(), vars(args)
    usual = {name: value for name, value in usual_values(parser, args.dataset).items()
             if name in IN_RECIPE or value is not None and DIFFER not in parser.traits[name]}
    kept = [f'{name} {show_value(values[name])}' for name in IN_RECIPE
            if values[name] == usual[name] and values[name] is not None]
    changed = [f'{name} {show_value(values[name])} ({show_value(usual[name])})' for name in usual
               if values[name] != usual[name] and name != 'dataset']
    lines = [f'{args.dataset}: {", ".join(kept)}', RECIPES[args.dataset].source]
    return lines + ([f'changed, in brackets what is usual: {", ".join(changed)}'] if changed else [])


def say_what_is_special(settings: Settings, advice: str) -> None:
    """Say which settings come from an earlier run, which differ from it, and which flags do nothing."""
    parser, args, source = get_parser(), settings.args, settings.source
    for name in parser.with_trait(RELEASED):
        if name in settings.given:
            purpose = next(action.help for action in parser._actions if action.dest == name)
            print(f'note     --{name} changes nothing: {purpose}')
    if advice:
        print(f'note     {advice}')
    if settings.given.get('seed') == -1:
        print(f'note     --seed -1: this run has the seed {args.seed}')
    if source is None:
        return
    if args.inference_only:
        for name in parser.with_trait(TRAINED):
            if name in settings.stored and settings.stored[name] != vars(args)[name]:
                warn(f'{args.model_file}: was trained with --{name} {shorten(settings.stored[name], 40)}, and is used '
                     f'with {vars(args)[name]}')
    usual = usual_values(parser, args.dataset)
    taken = [f'{name} {show_value(value)}' for name, value in sorted(settings.stored.items())
             if name not in settings.given and value != usual[name]]
    if taken:
        print_block('note', [f'taken from {source}: {", ".join(taken)}'])
