"""Feature files (.npy) and their folders, in four layouts.

    features/{train,test}/{rgb,flow}/<video>.npy        two-stream, each (L, D)
    [features/]{train,test}/<video>.npy                 joint, each (L, 2D), RGB first; or a single stream, (L, D)
    [features/]{train,test}/<video>_{rgb,flow}.npy      paired, each (L, D)

The test folder may also be called `testing`, `validation` or `val`.

    folder = find_folder(root, 'train', ('rgb', 'flow'))  # FeatureFolder
    file = folder.inspect(folder.locate(['my_video'])[0])  # FeatureFile: reads the headers only
    rows = np.empty((file.length, 2 * file.width), np.float32)
    file.read(slice(None), rows)
"""
import math
import mmap
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.annotations import SUBSETS
from formats.videos import match_videos
from utils import InputError, open_file, truncate

STREAMS = ('rgb', 'flow')  # in the order of a joint file
SPLIT_FOLDERS = {'train': SUBSETS['training'], 'test': (*SUBSETS['testing'], *SUBSETS['validation'])}
JOINT_WIDTH = 2048  # of both streams of I3D; other widths from MIN_SINGLE_WIDTH on are those of single networks
MIN_SINGLE_WIDTH = 256
SIDE_FILES = ('_fps', '_timestamps_ms')  # that video_features writes next to the features of a video
CONVERTIBLE = ('.npz', '.pt', '.pth', '.csv')  # by scripts.convert
UNREADABLE = ('.h5', '.hdf5', '.pkl', '.pickle', '.mat', '.zip', '.tar', '.gz')
CONVERT = 'python -m scripts.convert SOURCE DEST writes them in this form'
MAX_LENGTH_MISMATCH = 2  # rows between RGB and flow of a video: extractors round differently


class FeatureFile(NamedTuple):
    """The features of one video: one file per modality, or a single joint one."""

    paths: tuple[Path, ...]
    columns: slice  # of each file
    length: int  # L snippets
    width: int  # D, features per modality
    dtype: np.dtype  # the widest of its files
    length_mismatch: bool  # the files differ in length and are truncated to the shorter one

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Copy `rows` of all modalities, side by side, into `out`: (rows, M D).

        Raises InputError if a file has changed or contains NaN or infinity in these rows.
        """
        column = 0
        for path in self.paths:
            array = mmap_npy(path)[:self.length, self.columns]
            if array.shape != (self.length, out.shape[1] // len(self.paths)):
                raise InputError(f'{path}: its shape has changed since the run began; restore the file or start again')
            part = out[:, column:column + array.shape[1]]
            with np.errstate(over='ignore'):  # float64 beyond float32 becomes infinite and is reported below
                part[...] = array[rows]
            if not all_finite(part):
                bad_row = np.arange(self.length)[rows][~np.isfinite(part).all(axis=1)][0]
                raise InputError(f'{path}: NaN or infinite feature in row {bad_row}; extract it again')
            column += array.shape[1]


class Stream(NamedTuple):
    """The files of one stream, or of all streams, in a folder."""

    folder: Path
    stems: list[str]  # file names without `ending`, sorted
    ending: str  # of the file names


class FeatureFolder(NamedTuple):
    """The feature files of one split, as listed in its folder."""

    path: Path
    layout: str  # 'two-stream', 'paired', 'joint' or 'single'
    is_assumed: bool  # the layout was not given, and the files could be read in another one
    modalities: tuple[str, ...]  # in use
    streams: list[Stream]  # one per modality, or a single joint one; empty where no features were found

    @property
    def names(self) -> list[str]:
        """The videos, as spelled in the file names of the first stream."""
        return self.streams[0].stems if self.streams else []

    def locate(self, names: list[str]) -> list[tuple[Path, ...]]:
        """Return the files of each video, in either spelling of its name; () where one is missing.

        Names are matched with the listing of the folder and never joined to a path, so they cannot lead out of it.
        """
        indices = [match_videos(names, stream.stems).tolist() for stream in self.streams]
        paths: list[tuple[Path, ...]] = []
        for of_video in zip(*indices):
            found = tuple(stream.folder / (stream.stems[i] + stream.ending)
                          for stream, i in zip(self.streams, of_video) if i >= 0)
            paths.append(found if len(found) == len(self.streams) else ())
        return paths if self.streams else [()] * len(names)

    def inspect(self, paths: tuple[Path, ...]) -> FeatureFile:
        """Read the headers of a video's files; raises InputError if their shapes do not match."""
        arrays = [mmap_npy(path) for path in paths]
        lengths, widths = zip(*(array.shape for array in arrays))
        if max(lengths) - min(lengths) > MAX_LENGTH_MISMATCH:
            raise InputError(f'{paths[0].stem}: {lengths[0]} rgb rows but {lengths[1]} flow rows '
                             f'({paths[0]}, {paths[1]}); extract both again with the same stride')
        if len(set(widths)) > 1:
            raise InputError(f'{paths[0].stem}: rgb features have width {widths[0]} but flow features {widths[1]} '
                             f'({paths[0]}, {paths[1]}); both must have the same')
        width, columns = widths[0], slice(None)
        is_ambiguous = self.is_assumed and width >= MIN_SINGLE_WIDTH and width != JOINT_WIDTH
        if self.layout == 'joint' and not (is_ambiguous and len(self.modalities) == 1):
            self.check_joint(paths[0], lengths[0], width, is_ambiguous)
            width //= 2
            columns = slice(width * ('rgb' not in self.modalities), width * (1 + ('flow' in self.modalities)))
        dtype = max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)
        return FeatureFile(paths, columns, min(lengths), width, dtype, len(set(lengths)) > 1)

    def check_joint(self, path: Path, length: int, width: int, is_ambiguous: bool) -> None:
        """Raise InputError for a file that does not look like RGB and flow side by side."""
        if is_ambiguous:
            raise InputError(f'{path}: the width {width} may be that of a single network, as of one I3D stream; use '
                             f'--layout single with --modal rgb or --modal flow if it is, --layout joint if it is both '
                             f'streams side by side')
        if width % 2:
            turned = f'; if the file is (width, snippets), {CONVERT}' if length >= MIN_SINGLE_WIDTH else ''
            raise InputError(f'{path}: joint features are RGB and flow side by side, so their width must be even, '
                             f'found {width}{turned}')

    def layout_warning(self) -> str | None:
        """Return what was assumed about the layout and the flag that confirms it, None where nothing was."""
        if not self.is_assumed:
            return None
        return ('assumed to be RGB and flow side by side: --layout joint confirms it, --layout single with --modal rgb '
                'or flow reads them as one stream')


# ---- finding folders ------------------------------------------------------------------------------------------------

def split_folders(root: Path, split: str) -> list[Path]:
    """Return the possible feature folders of a split."""
    return [base / name for base in (root / 'features', root) for name in SPLIT_FOLDERS[split]]


def detect_modal(root: Path) -> str:
    """Return the --modal for the streams in a data folder: 'rgb' or 'flow' if there is only one, otherwise 'all'."""
    folders = [*split_folders(root, 'train'), *split_folders(root, 'test'), root / 'features', root]
    for folder in folders:
        streams = [stream for stream in STREAMS if (folder / stream).is_dir()]
        if streams:
            return streams[0] if len(streams) == 1 else 'all'
    return 'all'


def find_folder(root: Path, split: str, modalities: tuple[str, ...], layout: str = 'auto',
                names: list[str] | None = None) -> FeatureFolder:
    """Find the feature folder of a split; if there are several, the one with most of the videos `names`.

    Raises InputError if there is none.
    """
    if layout == 'single' and len(modalities) > 1:
        raise InputError('--layout single: files of one stream need --modal rgb or --modal flow')
    paths = split_folders(root, split)
    found = [folder for path in paths if (folder := detect_layout(path, modalities, layout, names))]
    if not found:
        raise InputError(other_format_message(root, paths) or missing_stream_message(paths, modalities) or
                         f'{root}: no {split} features found; expected features/{split}/rgb/*.npy and '
                         f'features/{split}/flow/*.npy, or {split}/*.npy'
                         + (f' (searched for --layout {layout})' if layout != 'auto' else ''))
    folder = max(found, key=lambda folder: sum(map(bool, folder.locate(names))) if names else 0)
    for stream in folder.streams:
        if not stream.stems:
            raise InputError(other_format_message(root, [stream.folder]) or
                             f'{stream.folder}: contains no .npy files; extract or download the features')
    return folder


def find_flat_features(root: Path, modalities: tuple[str, ...], layout: str = 'auto') -> FeatureFolder:
    """Find features without split folders: `root` is a .npy file, a folder of them, or one with rgb/ and flow/.

    Raises InputError for anything else.
    """
    if root.is_file():
        if root.suffix != '.npy':
            raise InputError(f'{root}: neither a folder nor a .npy file of features')
        kind = 'single' if layout == 'single' else 'joint'
        stream = Stream(root.parent, [root.stem], '.npy')
        return FeatureFolder(root.parent, kind, layout == 'auto', modalities, [stream])
    for path in (root, root / 'features'):
        folder = detect_layout(path, modalities, layout)
        if folder and folder.names:
            return folder
    raise InputError(other_format_message(root, [root, root / 'features']) or
                     missing_stream_message([root], modalities) or
                     f'{root}: no features found; expected features/test/rgb/*.npy and features/test/flow/*.npy, '
                     f'rgb/*.npy and flow/*.npy, or *.npy')


def detect_layout(path: Path, modalities: tuple[str, ...], layout: str, names: list[str] | None = None
                  ) -> FeatureFolder | None:
    """Return the feature files in a folder in the given or detected layout, None if there are none.

    Files that end in _rgb and _flow are pairs if more of the videos `names` are found like this, or, without names, if
    there are fewer other feature files.
    """
    folders = [path / modality for modality in modalities]
    if layout in ('auto', 'two-stream') and all(folder.is_dir() for folder in folders):
        return FeatureFolder(path, 'two-stream', False, modalities, [
            list_features(folder, suffixed=f'_{folder.name}.npy') for folder in folders])
    all_files = list_features(path) if path.is_dir() else None
    if all_files is None or not all_files.stems:
        return None
    pairs = [list_features(path, f'_{stream}.npy') for stream in STREAMS]
    if layout == 'paired' or layout == 'auto' and are_pairs(pairs, all_files, names or []):
        used = [pair for pair, stream in zip(pairs, STREAMS) if stream in modalities]
        return FeatureFolder(path, 'paired', False, modalities, used)
    if layout in ('auto', 'joint', 'single'):
        kind = 'single' if layout == 'single' else 'joint'
        return FeatureFolder(path, kind, layout == 'auto', modalities, [all_files])
    return None


def are_pairs(pairs: list[Stream], all_files: Stream, names: list[str]) -> bool:
    """Return whether a folder contains files of two streams, and perhaps a few others."""
    if not all(pair.stems for pair in pairs):
        return False
    num_pairs = len({*pairs[0].stems} & {*pairs[1].stems})
    endings = tuple(f'_{stream}' for stream in STREAMS)
    others = [stem for stem in all_files.stems if not stem.endswith(endings)]
    if others and names:
        num_found = [int((match_videos(names, stems) >= 0).sum()) for stems in (pairs[0].stems, all_files.stems)]
        return num_found[0] > num_found[1]
    return sum(is_feature_file(all_files.folder / f'{stem}.npy') for stem in others) < max(num_pairs, 1)


def is_feature_file(path: Path) -> bool:
    """Return whether a file contains a matrix."""
    try:
        return bool(mmap_npy(path).size)
    except InputError:
        return False


def list_features(folder: Path, ending: str = '.npy', suffixed: str = '') -> Stream:
    """List the files in a folder with an ending, or with `suffixed` if all have it, without hidden and side files."""
    names = {path.name.removesuffix('.npy') for path in folder.glob('*.npy') if not path.name.startswith('.')}
    for side in SIDE_FILES:
        bases = {name: name.removesuffix(side) for name in names if name.endswith(side)}
        names -= {name for name, base in bases.items() if base in names or any(
            base + f'_{stream}' in names for stream in STREAMS)}
    files = [f'{name}.npy' for name in names]
    if suffixed and files and all(name.endswith(suffixed) for name in files):
        ending = suffixed
    return Stream(folder, sorted(name.removesuffix(ending) for name in files if name.endswith(ending)), ending)


def other_format_message(root: Path, paths: list[Path]) -> str | None:
    """Return a message for the first folder whose features are in another file format, None if there is none."""
    for path in (inner for outer in paths for inner in (outer, *(outer / stream for stream in STREAMS))):
        suffixes = {file.suffix for file in path.glob('*.*')} if path.is_dir() else set()
        for suffix in sorted(suffixes) if '.npy' not in suffixes else ():
            if suffix.lower() in ('.npy', *CONVERTIBLE):
                return (f'{path}: contains {suffix} files, but features must be .npy; convert them: '
                        f'python -m scripts.convert {shlex.quote(str(root))} DEST')
            if suffix.lower() in UNREADABLE:
                return f'{path}: contains {suffix} files, but features must be .npy; save each video with numpy.save'
    return None


def missing_stream_message(paths: list[Path], modalities: tuple[str, ...]) -> str | None:
    """Return a message for the first folder with one modality but not the other, None if there is none."""
    for path in paths:
        existing = [modality for modality in modalities if (path / modality).is_dir()]
        if 0 < len(existing) < len(modalities):
            return f'{path}: has {existing[0]} but not the other modality; add it or use --modal {existing[0]}'
    return None


# ---- reading files --------------------------------------------------------------------------------------------------

def mmap_npy(path: Path) -> np.ndarray:
    """Map a feature file into memory: (L, width), read-only.

    Unlike np.load, raises InputError for anything but a complete .npy file of a floating point matrix: nothing is
    unpickled, and the size in the header is checked against that of the file.
    """
    try:
        with open_file(path) as file:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read[np.lib.format.read_magic(file)](file)
            offset, content = file.tell(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except InputError:
        raise
    except Exception as error:  # numpy raises almost anything for a damaged header
        raise InputError(f'{path}: not a readable .npy file ({truncate(error)}); extract or download it '
                         'again') from None
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f'{path}: features must be floating point numbers, found {dtype}; save the array of each '
                         f'video as float32')
    if len(shape) != 2 or min(shape) < 1 or any(type(size) is not int for size in shape):  # numpy accepts True for 1
        convert = f'; {CONVERT}' if len(shape) > 2 and sum(size != 1 for size in shape) <= 2 else ''
        raise InputError(f'{path}: features must be one array of shape (snippets, width), found {shape}{convert}')
    num_bytes = offset + math.prod(shape) * dtype.itemsize
    if num_bytes > len(content):
        raise InputError(f'{path}: truncated: {len(content)} of {num_bytes} bytes are there; download it again')
    return np.ndarray(shape, dtype, content, offset, order='F' if is_fortran else 'C')


def all_finite(array: np.ndarray) -> bool:
    """Return whether all numbers are finite."""
    if array.dtype == np.float16:  # np.isfinite is slow: NaN and infinity have all exponent bits set
        return bool((array.view(np.uint16) & 0x7c00).max() < 0x7c00)
    return bool(np.isfinite(array).all())
