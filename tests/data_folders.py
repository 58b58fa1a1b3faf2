"""Writes small data folders for the tests of formats/ and dataset.py."""
import json

import numpy as np
import pytest

from formats.annotations import read_annotations
from formats.data_folder import Split, find_split
from utils import InputError

LENGTHS = {'b': 30, 'a': 7, 'c': 1, 'd': 50, 'e': 2}


def annotate(folder, videos, **more):
    """Write gt.json: {name: (subset, labels)}, each label once; `more` are further keys of every video."""
    database = {name: {'subset': subset, **more,
                       'annotations': [{'label': label, 'segment': [0.5, 1]} for label in labels]}
                for name, (subset, labels) in videos.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    return database


def features_of(name, length, width=4):
    """Return features (L, 2 width) that differ between videos and that float16 represents exactly."""
    rng = np.random.RandomState(sum(map(ord, name)))
    return rng.randint(-1000, 1000, (length, 2 * width)).astype(np.float32) / 64


def save(folder, split, name, array, layout='two-stream', base='features'):
    """Write the features (L, 2D) of one video in a layout."""
    half = array.shape[1] // 2
    parts = {'.': array} if layout == 'joint' else {'rgb': array[:, :half], 'flow': array[:, half:]}
    for part, columns in parts.items():
        path = folder / base / split / part / f'{name}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, columns)


def write_folder(folder):
    """Write three training videos b, a, c and two test videos d, e, in this order, two-stream."""
    annotate(folder, {'a': ('train', ['Run']), 'b': ('train', ['Jump', 'Run']), 'c': ('train', ['Jump']),
                      'd': ('test', ['Run']), 'e': ('test', ['Jump'])})
    for split, names in (('train', 'bac'), ('test', 'de')):
        (folder / f'split_{split}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            save(folder, split, name, features_of(name, LENGTHS[name]))
    return folder


def open_split(folder, split='train', modalities=('rgb', 'flow'), layout='auto') -> Split:
    """Find a split that has no problem."""
    gt = read_annotations(folder)
    return find_split(folder, split, gt, gt.labels or ['Jump', 'Run'], modalities, layout).require()


def error_of(call, *args, **options):
    """Return the message of the InputError that a call raises: one line."""
    with pytest.raises(InputError) as error:
        call(*args, **options)
    assert '\n' not in str(error.value)
    return str(error.value)
