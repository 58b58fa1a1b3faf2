"""Feature files and the folders that they lie in. Headers are read here; features only by `FeatureFile.read`.

    features/{train,test}/{rgb,flow}/<video>.npy        two-stream, each (L, D)
    [features/]{train,test}/<video>.npy                 joint, each (L, 2D), RGB first; or a single stream, (L, D)
    [features/]{train,test}/<video>_{rgb,flow}.npy      paired, each (L, D)

The test folder may also be called `validation` or `val`.
"""
import math
import mmap
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from formats.annotations import match_videos
from config import MODALITIES
from utils import InputError, truncate

SPLIT_FOLDERS = {'train': ('train', 'training'), 'test': ('test', 'testing', 'validation', 'val')}
I3D_WIDTH = 1024       # features of one stream of the usual network
MAX_UNEVEN_ROWS = 2    # RGB and flow of one video may differ by so many rows: the extractors round differently


class FeatureFile(NamedTuple):
    """Where the features of one video lie: one file a modality, or a single joint one."""
    paths: tuple[Path, ...]
    columns: slice        # of each file
    length: int           # L snippets
    width: int            # features a modality, D
    dtype: np.dtype       # the widest of its files
    uneven: bool          # the files differ in length and are cut to the shorter

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Copy `rows` of all modalities, side by side, into `out` (rows, M D).

        Raises InputError where a file cannot be read any more or holds NaN or infinity in these rows.
        """
        column = 0
        for path in self.paths:
            header, content = mmap_npy(path)
            array = np.ndarray(header.shape, header.dtype, content, header.offset, order=header.order)
            array = array[:self.length, self.columns]
            if array.shape != (self.length, out.shape[1] // len(self.paths)):
                raise InputError(f'{path}: changed its shape since the run began; put the old file back or start again')
            part = out[:, column:column + array.shape[1]]
            with np.errstate(over='ignore'):    # float64 beyond float32 becomes infinite and is reported below
                part[...] = array[rows]
            if not all_finite(part):
                bad = np.arange(self.length)[rows][~np.isfinite(part).all(axis=1)][0]
                raise InputError(f'{path}: NaN or infinite feature in row {bad}; extract it again')
            column += array.shape[1]


class Header(NamedTuple):
    """What a `.npy` file says of itself."""
    shape: tuple[int, int]    # (L, width)
    dtype: np.dtype
    order: Literal['C', 'F']
    offset: int               # where the numbers begin, bytes


def mmap_npy(path: Path) -> tuple[Header, mmap.mmap]:
    """The header of a feature file and its content, mapped.

    Raises InputError where it is not a whole, plain `.npy` file of (L, D) floats. Nothing is unpickled, and no more is
    read than the file holds, whatever its header says.
    """
    try:
        with open(path, 'rb') as file:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read[np.lib.format.read_magic(file)](file)
            offset, content = file.tell(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except Exception as error:    # a damaged header makes numpy raise almost anything
        raise InputError(f'{path}: not a readable .npy file ({truncate(error)}); extract or download it again') from None
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f'{path}: features must be floating point numbers, found {dtype}')
    if len(shape) != 2 or min(shape) < 1 or any(type(size) is not int for size in shape):    # True is one for numpy
        raise InputError(f'{path}: features must be one array of shape (snippets, width), found {shape}')
    promised = offset + math.prod(shape) * dtype.itemsize
    if promised > len(content):
        raise InputError(f'{path}: truncated: {len(content)} of {promised} bytes are there; download it again')
    return Header(shape, dtype, 'F' if is_fortran else 'C', offset), content


def all_finite(array: np.ndarray) -> bool:
    if array.dtype == np.float16:    # numpy is slow to ask: those that are not finite have all exponent bits set
        return bool((array.view(np.uint16) & 0x7c00).max() < 0x7c00)
    return bool(np.isfinite(array).all())


class Stream(NamedTuple):
    """The files of a folder that hold one stream, or all of them."""
    folder: Path
    stems: list[str]    # names of its files without `ending`, sorted
    ending: str         # of the file names


class FeatureFolder(NamedTuple):
    """The feature files of one split, as its folder lists them."""
    path: Path
    layout: str                    # 'two-stream', 'paired', 'joint' or 'single'
    is_assumed: bool                 # nobody said so, and the files could be read in another way
    modalities: tuple[str, ...]    # in use
    streams: list[Stream]          # one a modality, or a single one

    @property
    def names(self) -> list[str]:
        """The videos, as the files of the first stream call them."""
        return self.streams[0].stems if self.streams else []

    def locate(self, names: list[str]) -> list[tuple[Path, ...]]:
        """The files of each video, by either spelling of its name; an empty tuple where one is missing.

        Names are looked up in the folder's listing, never joined to a path, so that none can lead out of it.
        """
        found = [match_videos(names, stream.stems) for stream in self.streams]
        located: list[tuple[Path, ...]] = []
        for i in range(len(names)):
            index = [places[i] for places in found]
            paths = [stream.folder / (stream.stems[place] + stream.ending)
                     for stream, place in zip(self.streams, index) if place >= 0]
            located.append(tuple(paths) if len(paths) == len(self.streams) else ())
        return located

    def inspect(self, paths: tuple[Path, ...]) -> FeatureFile:
        """Read the headers of one video's files. Raises InputError where shapes do not fit."""
        headers = [mmap_npy(path)[0] for path in paths]
        lengths, widths = zip(*(header.shape for header in headers))
        if max(lengths) - min(lengths) > MAX_UNEVEN_ROWS:
            raise InputError(f'{paths[0].stem}: {lengths[0]} rgb rows but {lengths[1]} flow rows '
                             f'({paths[0]}, {paths[1]}); extract both again with one stride')
        if len(set(widths)) > 1:
            raise InputError(f'{paths[0].stem}: rgb features are {widths[0]} wide but flow features {widths[1]} '
                             f'({paths[0]}, {paths[1]}); both need one width')
        width, columns = widths[0], slice(None)
        if self.layout == 'joint' and not (self.is_assumed and width == I3D_WIDTH and len(self.modalities) == 1):
            self.check_joint(paths[0], width)
            width //= 2
            columns = slice(width * ('rgb' not in self.modalities), width * (1 + ('flow' in self.modalities)))
        dtype = max((header.dtype for header in headers), key=lambda dtype: dtype.itemsize)
        return FeatureFile(paths, columns, min(lengths), width, dtype, len(set(lengths)) > 1)

    def check_joint(self, path: Path, width: int) -> None:
        """Raises InputError where a file does not look as if it held RGB and flow side by side."""
        if width % 2:
            raise InputError(f'{path}: joint features hold RGB and flow side by side, so their width must be even, '
                             f'found {width}')
        if self.is_assumed and width == I3D_WIDTH:
            raise InputError(f'{path}: {width} features are as many as an I3D network gives for one stream: if the '
                             f'files hold RGB or flow alone give --layout single with --modal rgb or --modal flow, if '
                             f'they hold both side by side give --layout joint')

    def layout_warning(self) -> str:
        """What was taken for granted, and the flag that settles it; empty where nothing was."""
        if not self.is_assumed:
            return ''
        return 'taken for RGB and flow side by side, as nothing says so: --layout joint confirms it, --layout single ' \
               'with --modal rgb or flow reads them as one stream'


def list_features(folder: Path, ending: str = '.npy') -> Stream:
    names = [path.name for path in folder.glob(f'*{ending}') if not path.name.startswith('.')]
    return Stream(folder, sorted(name.removesuffix(ending) for name in names), ending)


def detect_layout(path: Path, modalities: tuple[str, ...], layout: str) -> FeatureFolder | None:
    """The feature files of a folder, in the layout that it has or is said to have; None where there are none."""
    streams = [path / modality for modality in modalities]
    if layout in ('auto', 'two-stream') and all(stream.is_dir() for stream in streams):
        return FeatureFolder(path, 'two-stream', False, modalities, [list_features(stream) for stream in streams])
    everything = list_features(path) if path.is_dir() else None
    if everything is None or not everything.stems:
        return None
    pairs = [list_features(path, f'_{modality}.npy') for modality in MODALITIES['all']]
    halves = sum(len(pair.stems) for pair in pairs)
    if layout == 'paired' or layout == 'auto' and all(pair.stems for pair in pairs) and halves == len(everything.stems):
        own = [pair for pair, modality in zip(pairs, MODALITIES['all']) if modality in modalities]
        return FeatureFolder(path, 'paired', False, modalities, own)
    if layout in ('auto', 'joint', 'single'):
        kind = 'single' if layout == 'single' else 'joint'
        return FeatureFolder(path, kind, layout == 'auto', modalities, [everything])
    return None


def split_folders(root: Path, split: str) -> list[Path]:
    """Where the features of a split may lie."""
    return [base / name for base in (root / 'features', root) for name in SPLIT_FOLDERS[split]]


def find_folder(root: Path, split: str, modalities: tuple[str, ...], layout: str, names: list[str] | None
                ) -> FeatureFolder:
    """The feature folder of a split, found by looking; of several the one that holds most of `names`.

    Raises InputError where there is none.
    """
    if layout == 'single' and len(modalities) > 1:
        raise InputError('--layout single: files of one stream need --modal rgb or --modal flow')
    paths = split_folders(root, split)
    found = [folder for path in paths if (folder := detect_layout(path, modalities, layout))]
    if not found:
        raise InputError(missing_stream_message(paths, modalities) or
                         f'{root}: no {split} features found; expected features/{split}/rgb/*.npy and '
                         f'features/{split}/flow/*.npy, or {split}/*.npy'
                         + (f' (looked for --layout {layout})' if layout != 'auto' else ''))
    folder = max(found, key=lambda folder: sum(map(bool, folder.locate(names))) if names else 0)
    for stream in folder.streams:
        if not stream.stems:
            raise InputError(f'{stream.folder}: holds no .npy file; extract or download the features')
    return folder


def missing_stream_message(paths: list[Path], modalities: tuple[str, ...]) -> str:
    """A complaint about the first folder that has one modality without the other; empty where there is none."""
    for path in paths:
        there = [modality for modality in modalities if (path / modality).is_dir()]
        if 0 < len(there) < len(modalities):
            return f'{path}: has {there[0]} but not the other modality; add it or use --modal {there[0]}'
    return ''


def find_flat_features(root: Path, modalities: tuple[str, ...], layout: str) -> FeatureFolder:
    """Features that lie in no tree: `root` is a .npy file, or a folder of them, or one with rgb/ and flow/.

    Raises InputError where it is none of these.
    """
    if root.is_file():
        if root.suffix != '.npy':
            raise InputError(f'{root}: not a folder and not a .npy file of features')
        kind = 'single' if layout == 'single' else 'joint'
        alone = Stream(root.parent, [root.stem], '.npy')
        return FeatureFolder(root.parent, kind, layout == 'auto', modalities, [alone])
    for path in (root, root / 'features'):
        folder = detect_layout(path, modalities, layout)
        if folder and folder.names:
            return folder
    raise InputError(missing_stream_message([root], modalities) or
                     f'{root}: no features found; expected features/test/rgb/*.npy and features/test/flow/*.npy, '
                     f'rgb/*.npy and flow/*.npy, or *.npy')
