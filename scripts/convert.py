"""Make a data folder out of published features.

    python -m scripts.convert SOURCE DEST [--annotations FILE] [--copy]

SOURCE is one of

    i3d_features/X.npy            joint files, as of ActionFormer and OpenTAD; also any folder above them
    X_rgb.npy and X_flow.npy      or rgb/X.npy and flow/X.npy, in one folder or in several
    N-I3D-JOINTFeatures.npy       W-TALC's one file of all videos, with the folder N-Annotations next to it

Instead of .npy, the files may be .npz, .pt, .pth or .csv. Arrays may have additional axes of length 1, and time as
their second axis. DEST then contains features/train, features/test, gt.json and the two split lists. SOURCE is never
changed: files that need no conversion are linked. The splits are those of split lists in SOURCE, else the subsets of
the annotations.
"""
import pickle
import re
import shlex
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for python scripts/convert.py
from formats.annotations import GroundTruth, empty_ground_truth, match_videos, read_ground_truth
from formats.data_folder import resolve_split_list
from formats.features import CONVERTIBLE, SIDE_FILES
from utils import (
    InputError,
    Parser,
    atomic_folder,
    is_json,
    open_file,
    plural,
    preview,
    print_section,
    progress,
    quote,
    read_bytes,
    run_cli,
    truncate,
    write_bytes,
    write_json,
    write_text,
)

STREAMS = ('rgb', 'flow')
USUAL_WIDTHS = (1024, 2048)  # of I3D features: one stream, or both concatenated


class Feature(NamedTuple):
    """One array of one video, as a file or in memory."""

    video: str
    stream: str  # 'rgb', 'flow', or '' for both concatenated
    source: Path | np.ndarray

    def load(self) -> np.ndarray:
        """Return the array (two axes) without additional axes of length 1; a file is memory-mapped.

        Raises InputError for any other array.
        """
        where = self.source if isinstance(self.source, Path) else f'video {quote(self.video)}'
        array = load_array(self.source) if isinstance(self.source, Path) else self.source
        shape = array.shape
        while array.ndim > 2 and 1 in array.shape:
            array = array.squeeze(array.shape.index(1))
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise InputError(f'{where}: must be floating point numbers of shape (snippets, width), found {array.dtype} '
                             f'of {shape}; with several crops, keep one')
        return array


# ---- reading --------------------------------------------------------------------------------------------------------

def load_array(path: Path) -> np.ndarray:
    """Return the array of a file, memory-mapped if it is `.npy`; raises InputError where it contains no plain one."""
    suffix = path.suffix.lower()
    if suffix in ('.pt', '.pth'):
        from engine.torch_io import read_torch_file  # torch takes long to import
        value = read_torch_file(path)
        arrays = value if isinstance(value, dict) else {'': value}
        arrays = {name: one.numpy(force=True) for name, one in arrays.items() if hasattr(one, 'numpy')}
        return only_array(path, arrays)
    try:
        with open_file(path) as file:
            if suffix == '.csv':
                return np.loadtxt(file, np.float32, delimiter=',', ndmin=2)
            if suffix == '.npz':
                with np.load(file, allow_pickle=False) as arrays:
                    return only_array(path, dict(arrays))
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # a damaged header makes numpy raise almost anything
        raise InputError(f'{path}: not a plain {suffix or "file of an"} array ({truncate(error)})') from None


def only_array(path: Path, arrays: dict) -> np.ndarray:
    """Return the one array of at least two axes in a file; raises InputError where it has none or several."""
    matrices = {name: array for name, array in arrays.items() if np.ndim(array) >= 2}
    if len(matrices) != 1:
        raise InputError(f'{path}: must contain one array of shape (snippets, width), found {len(matrices)}')
    return next(iter(matrices.values()))


class PickledType:
    """The type of a pickled array, from its name and byte order only: numpy would crash on a damaged state."""

    def __init__(self, name: str, *_: object):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in 'biufSUO' or self.dtype.names:
            raise pickle.UnpicklingError(f'it contains an array of {self.dtype}')

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder('>' if state[1] == '>' else '<')

    def read(self, content: bytes | str) -> np.ndarray:
        """Return the values (n,) of bytes, which Python 2 pickled as text."""
        if self.dtype.hasobject:
            raise pickle.UnpicklingError('it contains the addresses of objects')
        return np.frombuffer(content.encode('latin1') if isinstance(content, str) else content, self.dtype).copy()


class PickledArray:
    """A pickled array, until `unpack` converts it."""

    def __init__(self, *_: object):
        self.values: np.ndarray | list = []
        self.shape: tuple = (0,)
        self.order: Any = 'C'

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, kind, is_fortran, content = state
        self.values = content if isinstance(content, list) and kind.dtype.hasobject else kind.read(content)
        self.order = 'F' if is_fortran else 'C'


def unpack(value: Any, known: dict[int, Any]) -> Any:
    """Return the value with every `PickledArray` converted, in lists too; `known` are converted ones by their ids."""
    if not isinstance(value, (PickledArray, list, tuple)):
        return value
    if id(value) not in known:
        values = value.values if isinstance(value, PickledArray) else value
        if not isinstance(values, np.ndarray):
            values = [unpack(inner, known) for inner in values]
        if isinstance(value, PickledArray):
            if isinstance(values, list):
                objects = np.empty(len(values), object)
                for i, inner in enumerate(values):
                    objects[i] = inner
                values = objects
            values = values.reshape(value.shape, order=value.order)
        known[id(value)] = values
    return known[id(value)]


class ArraysOnly(pickle.Unpickler):
    """Read arrays, lists, numbers and texts; refuse everything else, so that a pickle runs no code."""

    ALLOWED = {'ndarray': PickledArray, '_reconstruct': PickledArray, 'dtype': PickledType,
               'scalar': lambda kind, value: kind.read(value)[0],
               'encode': lambda text, encoding: text.encode('latin1')}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for an allowed type; raises UnpicklingError for any other."""
        if module.partition('.')[0] in ('numpy', '_codecs') and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise pickle.UnpicklingError(f'it requests {module}.{name}')


def load_objects(path: Path) -> list:
    """Return the elements of a one-dimensional `.npy` array: numbers, texts, or lists and arrays of unequal lengths."""
    try:
        with open_file(path) as file:
            np.lib.format.read_magic(file)
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject:
                value = ArraysOnly(file, encoding='latin1').load()  # latin1: texts and arrays of Python 2
                return list(unpack(value, {}))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f'{path}: not an array of only arrays and lists ({truncate(error)})') from None
    return list(load_array(path))


def find_features(folder: Path) -> list[Feature]:
    """Return all feature files under a folder, with the video and the stream that their names and folders denote."""
    paths: dict[tuple[str, str], Path] = {}
    # Other files, as annotations.csv, may be next to .npy files; of the others only the first kind is read.
    files = sorted(path for path in folder.rglob('*.*') if path.name[0] != '.')  # macOS writes ._X.npy next to X.npy
    kinds = ([path for path in files if path.suffix.lower() == suffix] for suffix in ('.npy', *CONVERTIBLE))
    for path in next(filter(None, kinds), []):
        if path.stem.endswith(SIDE_FILES):
            continue
        video, stream = path.stem, ''
        if named := re.fullmatch('(.+)[-_.](rgb|flow)', video, re.IGNORECASE):
            video, stream = named[1], named[2].lower()
        elif path.parent.name.lower() in STREAMS:
            stream = path.parent.name.lower()
        if (video, stream) in paths:
            raise InputError(f'{path}: has the same video and stream as {paths[video, stream]}; keep one')
        paths[video, stream] = path
    if not paths:
        raise InputError(f'{folder}: contains no .npy file, nor {", ".join(CONVERTIBLE)}; unpack the downloaded '
                         f'archive')
    streams: dict[str, set[str]] = {}
    for video, stream in paths:
        streams.setdefault(video, set()).add(stream)
    usual = max(streams.values(), key=len)
    for video, has in streams.items():
        if has != usual:
            raise InputError(f'{folder}: video {quote(video)} has {describe(has)}, others have {describe(usual)}; '
                             f'add or remove files until all have the same streams')
    return [Feature(video, stream, path) for (video, stream), path in paths.items()]


def describe(streams: set[str]) -> str:
    """Return the names of streams for a message."""
    return ' and '.join(sorted(stream or 'joint' for stream in streams)) + ' features'


def find_annotations(folder: Path) -> Path | None:
    """Return the one file of annotations in a folder, in its subfolder annotations, or in annotations next to it."""
    paths = []
    for parent in (folder, folder / 'annotations', folder.parent / 'annotations'):
        for path in sorted(parent.glob('*.json')):
            try:
                read_ground_truth(path)
                paths.append(path)
            except InputError:
                pass  # other JSON
    if len(paths) > 1:
        raise InputError(f'{folder}: {preview([str(path) for path in paths])} all contain annotations; choose one with '
                         f'--annotations')
    return paths[0] if paths else None


def read_wtalc(path: Path, annotations: Path) -> tuple[list[Feature], dict[str, Any]]:
    """Return the features of W-TALC's one file, and the annotations of its folder in the form of a gt.json."""
    if not annotations.is_dir():
        raise InputError(f'{annotations}: not found; {path.name} needs its folder of annotations, give it with '
                         f'--annotations')
    columns = {'features': load_objects(path)}
    for name in ('videoname', 'subset', 'segments', 'labels', 'labels_all', 'duration'):
        file = annotations / f'{name}.npy'
        if file.exists() or name not in ('labels_all', 'duration'):
            columns[name] = load_objects(file)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f'{annotations}: does not belong to {path}: the numbers of entries are {counts}')
    try:
        videos = [text(name) for name in columns['videoname']]
        database = {video: entry_of({name: column[i] for name, column in columns.items()})
                    for i, video in enumerate(videos)}
        features = [Feature(video, '', np.asarray(array)) for video, array in zip(videos, columns['features'])]
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise InputError(f'{annotations}: its arrays are not those of W-TALC ({truncate(error)})') from None
    if not is_json(database):
        raise InputError(f'{annotations}: contains NaN or infinite times; fix segments.npy and duration.npy')
    if others := [video for video in videos if not video or Path(video).name != video or '\0' in video]:
        raise InputError(f'{annotations}: {quote(others[0])} is the name of a video and cannot be that of a file')
    return features, {'database': database}


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a gt.json for one video of W-TALC's arrays."""
    labels = [text(label) for label in row['labels']]
    annotations: list[dict[str, Any]] = [{'label': label, 'segment': [float(start), float(end)]}
                                         for label, (start, end) in zip(labels, row['segments'], strict=True)]
    tags = dict.fromkeys(text(label) for label in row.get('labels_all', []))  # of the whole video, some without times
    annotations += [{'label': label} for label in tags if label not in labels]
    entry: dict[str, Any] = {'subset': text(row['subset']), 'annotations': annotations}
    if 'duration' in row:
        entry['duration'] = float(np.ravel(row['duration'])[0])
    return entry


def text(value: object) -> str:
    """Return a text of numpy or Python 2 as str."""
    return value.decode() if isinstance(value, bytes) else str(value)


# ---- writing --------------------------------------------------------------------------------------------------------

def has_time_first(shapes: list[tuple[int, ...]], stream: str) -> bool:
    """Return whether the first axis of these arrays is time: the axis whose length differs.

    Where neither differs, the axis of a usual width is not time. Raises InputError where both differ.
    """
    first, second = ({shape[axis] for shape in shapes} for axis in (0, 1))
    if len(first) > 1 and len(second) > 1:
        raise InputError(f'the {stream or "joint"} features have different widths: shapes are '
                         f'{preview([str(shape) for shape in dict.fromkeys(shapes)])}')
    if len(first) == len(second) == 1:
        return not first <= set(USUAL_WIDTHS) or second <= set(USUAL_WIDTHS)
    return len(second) == 1


def choose_videos(folder: Path, gt: GroundTruth, videos: list[str]) -> dict[str, list[str]]:
    """Return the videos of each split: by lists in the source folder, else by the subsets of the annotations.

    Without either, all are test videos.
    """
    chosen: dict[str, list[str]] = {}
    for split in ('train', 'test'):
        if not gt.labels and not (folder / f'split_{split}.txt').is_file():
            chosen[split] = videos if split == 'test' else []
            continue
        members = resolve_split_list(folder, split, gt)
        if members is None:  # the annotations have only one subset
            chosen[split] = [video for video in videos if video not in chosen['train']]
            continue
        index = match_videos(members.names, videos).tolist()
        chosen[split] = [videos[i] for i in index if i >= 0]
        if missing := [name for name, i in zip(members.names, index) if i < 0]:
            print_section(split, [f'{plural(len(missing), "video")} of {members.source} without features, left out: '
                                  f'{preview(missing)}'])
    if unused := [video for video in videos if video not in {*chosen['train'], *chosen['test']}]:
        print_section('unused', [f'{plural(len(unused), "video")} in no split: {preview(unused)}'])
    return chosen


def write_features(folder: Path, features: list[Feature], chosen: dict[str, list[str]], copy: bool) -> Iterator[str]:
    """Write the features of the chosen videos; yield what was done with each array."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for feature in features:
        shapes.setdefault(feature.stream, []).append(feature.load().shape)
    time_first = {stream: has_time_first(shapes[stream], stream) for stream in shapes}
    splits = {video: split for split, videos in chosen.items() for video in videos}
    for feature in progress(features, desc='writing', unit='file'):
        if feature.video not in splits:
            continue
        path = folder / 'features' / splits[feature.video] / feature.stream / f'{feature.video}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        array = feature.load()
        if not time_first[feature.stream]:
            np.save(path, np.ascontiguousarray(array.T))
            yield 'written with time as the first axis'
        elif not isinstance(feature.source, Path) or (
                feature.source.suffix != '.npy' or load_array(feature.source).ndim > 2):
            np.save(path, array)
            yield 'written as (snippets, width)'
        elif copy:
            shutil.copyfile(feature.source, path)
            yield 'copied'
        else:
            path.symlink_to(feature.source.resolve())
            yield 'linked'


def convert(source: Path, dest: Path, annotations: Path | None, copy: bool) -> None:
    """Write a data folder and print what it contains; raises InputError where the source is not as described above."""
    if not source.exists():
        raise InputError(f'{source}: not found')
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f'{dest}: exists and is not empty; give another folder')
    if dest.resolve().is_relative_to(source.resolve()):
        raise InputError(f'{dest}: is inside {source}, which is not changed; give another folder')
    with atomic_folder(dest) as new:
        if source.is_dir():
            features = find_features(source)
            annotations = annotations or find_annotations(source)
            gt = read_ground_truth(annotations) if annotations else empty_ground_truth()
            if annotations:
                write_bytes(new / 'gt.json', read_bytes(annotations))
        else:
            annotations = annotations or source.with_name(source.name.partition('-')[0] + '-Annotations')
            features, ground_truth = read_wtalc(source, annotations)
            write_json(new / 'gt.json', ground_truth)
            gt = read_ground_truth(new / 'gt.json')
        videos = list(dict.fromkeys(feature.video for feature in features))
        streams = describe({feature.stream for feature in features})
        print_section('found', [f'{streams} of {plural(len(videos), "video")}',
                                f'annotations in {annotations}' if annotations else
                                'no annotations (--annotations FILE): all videos are test videos'])
        chosen = choose_videos(source if source.is_dir() else source.parent, gt, videos)
        if not any(chosen.values()):
            raise InputError(f'{source}: none of its {plural(len(videos), "video")} is in a split; they are named like '
                             f'{quote([*videos, ""][0])}, in the annotations like {quote([*gt.videos, ""][0])}')
        done = list(write_features(new, features, chosen, copy))
        for split, names in chosen.items():
            if names:
                write_text(new / f'split_{split}.txt', '\n'.join(names) + '\n')
    train, test = len(chosen['train']), plural(len(chosen['test']), 'test video')
    print_section('wrote', [f'{dest}: {train} training and {test}',
                            *(f'{plural(done.count(what), "array")} {what}' for what in dict.fromkeys(done))])
    print_section('check', [f'python main.py --data_path {shlex.quote(str(dest))} --check'])


def main() -> None:
    """Run the command line."""
    parser = Parser(prog='python -m scripts.convert', description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='SOURCE')
    parser.add_argument('dest', type=Path, metavar='DEST')
    parser.add_argument('--annotations', type=Path, metavar='FILE', help='a gt.json, or the folder of W-TALC (default: '
                        'the one in SOURCE, in SOURCE/annotations or next to SOURCE)')
    parser.add_argument('--copy', action='store_true', help='copy files instead of linking to them')
    args = parser.parse_args()
    convert(args.source, args.dest, args.annotations, args.copy)


if __name__ == '__main__':
    sys.exit(run_cli(main))
