"""Make a data folder out of features as others publish them.

    python -m scripts.convert SOURCE DEST [--annotations FILE] [--copy]

SOURCE is one of

    i3d_features/X.npy            joint files, as of ActionFormer and OpenTAD; also any folder above them
    X_rgb.npy and X_flow.npy      or rgb/X.npy and flow/X.npy, in one folder or in several
    N-I3D-JOINTFeatures.npy       W-TALC's one file of all videos, with the folder N-Annotations beside it

Arrays may have an axis of length 1 too many, and time as their second axis. DEST becomes features/train, features/test,
gt.json and the two split lists. SOURCE is never changed: what is right as it is gets linked, the rest is written anew.
Who is trained on and who is tested is read from the annotations, or from split lists in SOURCE.
"""
import os
import pickle
import re
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # for python scripts/convert.py, which looks here alone
from formats.annotations import empty_ground_truth
from formats.data_folder import resolve_split_list
from formats.annotations import GroundTruth, match_videos, read_ground_truth
from utils import (InputError, Parser, preview, is_json, plural, print_section, quote, read_bytes, run_cli,
                   truncate, write_bytes, write_json, write_text)

STREAMS = ('rgb', 'flow')
USUAL_WIDTHS = (1024, 2048)    # of I3D features: one stream, or both side by side


class Feature(NamedTuple):
    """One array of one video, where it lies or already in memory."""
    video: str
    stream: str                # 'rgb', 'flow', or '' for both side by side
    source: Path | np.ndarray

    def load(self) -> np.ndarray:
        """The array (two axes) without the axes of length 1 that it has too many; a file is mapped, not read.

        Raises InputError where it is no such array.
        """
        where = self.source if isinstance(self.source, Path) else f'video {quote(self.video)}'
        array = load_array(self.source) if isinstance(self.source, Path) else self.source
        shape = array.shape
        while array.ndim > 2 and 1 in array.shape:
            array = array.squeeze(array.shape.index(1))
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise InputError(f'{where}: must be floating point numbers of shape (snippets, width), found {array.dtype} '
                             f'of {shape}; of several crops write one')
        return array


# ---- reading --------------------------------------------------------------------------------------------------------

def load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:    # a damaged header makes numpy raise almost anything
        raise InputError(f'{path}: not a plain .npy array ({truncate(error)})') from None


class PickledType:
    """The type of a pickled array, by its name and byte order. numpy would trust all that its state says, and crash."""

    def __init__(self, name: str, *_: object):
        self.dtype = np.dtype(name)
        if self.dtype.kind not in 'biufSUO' or self.dtype.names:
            raise pickle.UnpicklingError(f'it holds an array of {self.dtype}')

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder('>' if state[1] == '>' else '<')

    def read(self, content: bytes | str) -> np.ndarray:
        """The values (n,) that bytes hold, which Python 2 called a text."""
        if self.dtype.hasobject:
            raise pickle.UnpicklingError('it gives the addresses of objects')
        return np.frombuffer(content.encode('latin1') if isinstance(content, str) else content, self.dtype).copy()


class PickledArray:
    """A pickled array, until `unpacked` makes it one."""

    def __init__(self, *_: object):
        self.values: np.ndarray | list = []
        self.shape: tuple = (0,)
        self.order: Any = 'C'

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, kind, is_fortran, content = state
        self.values = content if isinstance(content, list) and kind.dtype.hasobject else kind.read(content)
        self.order = 'F' if is_fortran else 'C'


def unpacked(value: Any, known: dict[int, Any]) -> Any:
    """The value with arrays in the places of `PickledArray`, in lists too; what is `known` by its id is not redone."""
    if not isinstance(value, (PickledArray, list, tuple)):
        return value
    if id(value) not in known:
        values = value.values if isinstance(value, PickledArray) else value
        if not isinstance(values, np.ndarray):
            values = [unpacked(inner, known) for inner in values]
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
    """Reads arrays, lists, numbers and texts. Anything else that a pickle names is refused, so that it runs no code."""

    ALLOWED = {'ndarray': PickledArray, '_reconstruct': PickledArray, 'dtype': PickledType,
               'scalar': lambda kind, value: kind.read(value)[0],
               'encode': lambda text, encoding: text.encode('latin1')}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition('.')[0] in ('numpy', '_codecs') and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def load_objects(path: Path) -> list:
    """The elements of a one-dimensional `.npy` array, which may hold lists and arrays of unequal lengths."""
    try:
        with open(path, 'rb') as file:
            np.lib.format.read_magic(file)
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject:
                found = ArraysOnly(file, encoding='latin1').load()    # latin1: as Python 2 wrote texts and arrays
                return list(unpacked(found, {}))
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    except Exception as error:    # a pickle can make Python raise anything
        raise InputError(f'{path}: not an array of arrays and lists alone ({truncate(error)})') from None
    return list(load_array(path))


def find_features(folder: Path) -> list[Feature]:
    """All `.npy` files under a folder, told apart by their names and those of their folders."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob('*.npy')):
        video, stream = path.stem, ''
        if named := re.fullmatch('(.+)[-_.](rgb|flow)', video, re.IGNORECASE):
            video, stream = named[1], named[2].lower()
        elif path.parent.name.lower() in STREAMS:
            stream = path.parent.name.lower()
        if (video, stream) in found:
            raise InputError(f'{path}: has the same features of the same video as {found[video, stream]}; keep one')
        found[video, stream] = path
    if not found:
        raise InputError(f'{folder}: no .npy file lies there; unpack what was downloaded')
    streams: dict[str, set[str]] = {}
    for video, stream in found:
        streams.setdefault(video, set()).add(stream)
    usual = max(streams.values(), key=len)
    for video, has in streams.items():
        if has != usual:
            raise InputError(f'{folder}: video {quote(video)} has {describe(has)}, others have {describe(usual)}; '
                             f'add or remove files until all have the same')
    return [Feature(video, stream, path) for (video, stream), path in found.items()]


def describe(streams: set[str]) -> str:
    return ' and '.join(sorted(stream or 'joint' for stream in streams)) + ' features'


def find_annotations(folder: Path) -> Path | None:
    """The one file of annotations in a folder, in annotations/ in it, or beside it."""
    found = []
    for place in (folder, folder / 'annotations', folder.parent / 'annotations'):
        for path in sorted(place.glob('*.json')):
            try:
                read_ground_truth(path)
                found.append(path)
            except InputError:
                pass    # something else in JSON
    if len(found) > 1:
        raise InputError(f'{folder}: {preview([str(path) for path in found])} all hold annotations; say which with '
                         f'--annotations')
    return found[0] if found else None


def read_wtalc(path: Path, annotations: Path) -> tuple[list[Feature], dict[str, Any]]:
    """The features of W-TALC's one file, and the annotations of its folder in the form of a gt.json."""
    if not annotations.is_dir():
        raise InputError(f'{annotations}: not found; {path.name} needs its folder of annotations, name it with '
                         f'--annotations')
    columns = {'features': load_objects(path)}
    for name in ('videoname', 'subset', 'segments', 'labels', 'labels_all', 'duration'):
        file = annotations / f'{name}.npy'
        if file.exists() or name not in ('labels_all', 'duration'):
            columns[name] = load_objects(file)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f'{annotations}: does not belong to {path}: they hold {counts} entries')
    try:
        videos = [text(name) for name in columns['videoname']]
        database = {video: entry_of({name: column[i] for name, column in columns.items()})
                    for i, video in enumerate(videos)}
        features = [Feature(video, '', np.asarray(array)) for video, array in zip(videos, columns['features'])]
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        raise InputError(f'{annotations}: its arrays are not those of W-TALC ({truncate(error)})') from None
    if not is_json(database):
        raise InputError(f'{annotations}: holds NaN or infinite times; mend segments.npy and duration.npy')
    if others := [video for video in videos if not video or Path(video).name != video or '\0' in video]:
        raise InputError(f'{annotations}: {quote(others[0])} names a video and could not name a file')
    return features, {'database': database}


def entry_of(row: dict[str, Any]) -> dict[str, Any]:
    """The entry of a gt.json for one video of W-TALC's arrays."""
    labels = [text(label) for label in row['labels']]
    annotations: list[dict[str, Any]] = [{'label': label, 'segment': [float(start), float(end)]}
                                         for label, (start, end) in zip(labels, row['segments'], strict=True)]
    tags = dict.fromkeys(text(label) for label in row.get('labels_all', []))    # of the whole video, some without times
    annotations += [{'label': label} for label in tags if label not in labels]
    entry: dict[str, Any] = {'subset': text(row['subset']), 'annotations': annotations}
    if 'duration' in row:
        entry['duration'] = float(np.ravel(row['duration'])[0])
    return entry


def text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# ---- writing --------------------------------------------------------------------------------------------------------

def has_time_first(shapes: list[tuple[int, ...]], stream: str) -> bool:
    """Whether the first axis of these arrays is time: lengths differ and widths do not.

    Where neither differs, a usual width tells. Raises InputError where both do.
    """
    first, second = ({shape[axis] for shape in shapes} for axis in (0, 1))
    if len(first) > 1 and len(second) > 1:
        raise InputError(f'the {stream or "joint"} features have different widths: shapes are '
                         f'{preview([str(shape) for shape in dict.fromkeys(shapes)])}')
    if len(first) == len(second) == 1:
        return not first <= set(USUAL_WIDTHS) or second <= set(USUAL_WIDTHS)
    return len(second) == 1


def choose_videos(folder: Path, truth: GroundTruth, videos: list[str]) -> dict[str, list[str]]:
    """The `videos` of each split, by lists in the source folder, else by the subsets of the annotations.

    Without either, all are tested.
    """
    chosen: dict[str, list[str]] = {}
    for split in ('train', 'test'):
        if not truth.labels and not (folder / f'split_{split}.txt').is_file():
            chosen[split] = videos if split == 'test' else []
            continue
        members = resolve_split_list(folder, split, truth)
        if members is None:    # the annotations have one subset alone
            chosen[split] = [video for video in videos if video not in chosen['train']]
            continue
        index = match_videos(members.names, videos).tolist()
        chosen[split] = [videos[i] for i in index if i >= 0]
        if missing := [name for name, i in zip(members.names, index) if i < 0]:
            print_section(split, [f'{plural(len(missing), "video")} by {members.source} without features, left out: '
                                f'{preview(missing)}'])
    if unused := [video for video in videos if video not in {*chosen['train'], *chosen['test']}]:
        print_section('unused', [f'{plural(len(unused), "video")} that belong to no split: {preview(unused)}'])
    return chosen


def write_features(folder: Path, features: list[Feature], chosen: dict[str, list[str]], copy: bool) -> Iterator[str]:
    """Write the features of the chosen videos; yields what was done with each array."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for feature in features:
        shapes.setdefault(feature.stream, []).append(feature.load().shape)
    time_first = {stream: has_time_first(found, stream) for stream, found in shapes.items()}
    splits = {video: split for split, videos in chosen.items() for video in videos}
    for feature in tqdm(features, desc='writing', unit='file', leave=False, delay=1):
        if feature.video not in splits:
            continue
        path = folder / 'features' / splits[feature.video] / feature.stream / f'{feature.video}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        array = feature.load()
        if not time_first[feature.stream]:
            np.save(path, np.ascontiguousarray(array.T))
            yield 'written with time as the first axis'
        elif not isinstance(feature.source, Path) or load_array(feature.source).ndim > 2:
            np.save(path, array)
            yield 'written as (snippets, width)'
        elif copy:
            shutil.copyfile(feature.source, path)
            yield 'copied'
        else:
            path.symlink_to(feature.source.resolve())
            yield 'linked'


def convert(source: Path, dest: Path, annotations: Path | None, copy: bool) -> None:
    if not source.exists():
        raise InputError(f'{source}: not found')
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f'{dest}: is there and not empty; give another folder')
    if dest.resolve().is_relative_to(source.resolve()):
        raise InputError(f'{dest}: lies in {source}, which is left as it is; give another folder')
    new = dest.with_name(f'.{dest.name}.{os.getpid()}.new')    # it becomes DEST once it is whole
    try:
        new.mkdir(parents=True)
    except OSError as error:
        raise InputError(f'{dest}: cannot be made: {error.strerror}') from None
    try:
        if source.is_dir():
            features = find_features(source)
            annotations = annotations or find_annotations(source)
            truth = read_ground_truth(annotations) if annotations else empty_ground_truth()
            if annotations:
                write_bytes(new / 'gt.json', read_bytes(annotations))
        else:
            annotations = annotations or source.with_name(source.name.partition('-')[0] + '-Annotations')
            features, ground_truth = read_wtalc(source, annotations)
            write_json(new / 'gt.json', ground_truth)
            truth = read_ground_truth(new / 'gt.json')
        videos = list(dict.fromkeys(feature.video for feature in features))
        streams = describe({feature.stream for feature in features})
        print_section('found', [f'{streams} of {plural(len(videos), "video")}',
                              f'annotations in {annotations}' if annotations else
                              'no annotations, --annotations FILE names them: all videos are tested'])
        chosen = choose_videos(source if source.is_dir() else source.parent, truth, videos)
        done = list(write_features(new, features, chosen, copy))
        for split, names in chosen.items():
            if names:
                write_text(new / f'split_{split}.txt', '\n'.join(names) + '\n')
        new.rename(dest)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    train, test = len(chosen['train']), plural(len(chosen['test']), 'test video')
    print_section('wrote', [f'{dest}: {train} training and {test}',
                          *(f'{plural(done.count(what), "array")} {what}' for what in dict.fromkeys(done))])
    print_section('check', [f'python dataset.py {dest} --deep'])


def main() -> None:
    parser = Parser(prog='python -m scripts.convert', description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='SOURCE')
    parser.add_argument('dest', type=Path, metavar='DEST')
    parser.add_argument('--annotations', type=Path, metavar='FILE', help='a gt.json, or the folder of W-TALC; where '
                        'absent, what lies in SOURCE, in SOURCE/annotations or beside it')
    parser.add_argument('--copy', action='store_true', help='copy files instead of linking to them')
    args = parser.parse_args()
    convert(args.source, args.dest, args.annotations, args.copy)


if __name__ == '__main__':
    sys.exit(run_cli(main))
