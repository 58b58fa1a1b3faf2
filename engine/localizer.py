"""Trained weights as a module that localizes arrays of features.

    model = Localizer.load('outputs/first/best.pt')
    for row in model.events(features):  # (L, M D), RGB first
        print(row.label, row.start, row.end, row.score)
"""
import argparse
import io
import math
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from config import MODALITIES, parse_args
from dataset import Normalization, uniform_indices
from engine.checkpoint import (
    infer_modality,
    infer_num_classes,
    load_class_names,
    load_weights,
    read_weights,
    strip_wrappers,
)
from engine.inference import EvaluatorOptions
from eval.events import select_events
from eval.localization import localize, predict_classes
from formats.annotations import NEGATIVE, OWN_RATE, TimeBase, empty_ground_truth
from formats.detections import Detections
from formats.features import MAX_LENGTH_MISMATCH
from model import AICL, NetworkOptions, Outputs, build_network
from utils import InputError, truncate

Features = np.ndarray | Tensor


class Row(NamedTuple):
    """A detection or an event."""

    label: str
    start: float  # seconds
    end: float
    score: float


class Localizer(nn.Module):
    """A network with the class names, settings and normalization of its run.

    class_names: C, in the order of the network's classes; '' is that of negative videos, which is not detected.
    """

    mean: Tensor   # (M D,)
    scale: Tensor  # (M D,)

    def __init__(self, network: AICL, class_names: list[str], options: EvaluatorOptions,
                 normalization: Normalization | None):
        super().__init__()
        self.network, self.class_names, self.options = network, class_names, options
        self.modalities = network.actionness_module.modalities
        self.feature_dim = network.actionness_module.feature_dim
        num_features = len(self.modalities) * self.feature_dim
        mean, deviation = normalization or (np.zeros(num_features, np.float32), np.ones(num_features, np.float32))
        if len(mean) != num_features:
            raise InputError(f'normalization.npz: has {len(mean)} features, but the weights {num_features}; copy it '
                             f'again from their run')
        self.register_buffer('mean', torch.from_numpy(mean), persistent=False)
        self.register_buffer('scale', 1 / torch.from_numpy(deviation), persistent=False)

    @classmethod
    def load(cls, weights: str | Path, **settings: Any) -> 'Localizer':
        """Return the module for a weights file, on the CPU and in eval mode, with the files of its run next to it.

        Settings are those of `main.py --inference_only` and are named as its flags, as in class_th=0.1. Raises
        InputError where a file or a setting is invalid.
        """
        path = str(weights)
        argv = [f'--model_file={path}', f'--data_path={path}', '--inference_only', '--exp_name=hub']
        for name, value in settings.items():
            if isinstance(value, bool):
                argv.append(f'--{name}' if value else f'--no-{name}')
            else:
                argv += [f'--{name}', *map(str, value)] if isinstance(value, (list, tuple)) else [f'--{name}={value}']
        with redirect_stderr(io.StringIO()) as message:
            try:
                args = parse_args(argv)
            except SystemExit:
                raise InputError(message.getvalue().strip().removeprefix('error: ')) from None
        return cls.from_args(args)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> 'Localizer':
        """Return the module for the flags of main.py; `args.modal` is set to that of the weights."""
        path = args.model_file
        state = strip_wrappers(read_weights(path))
        args.modal = args.modal or infer_modality(state) or 'all'
        num_classes = infer_num_classes(state, path)
        class_names = load_class_names(path, path, empty_ground_truth(), num_classes)
        weight = state.get('actionness_module.base_module.0.weight')
        num_features = weight.shape[1] if isinstance(weight, Tensor) and weight.ndim == 3 else 1
        network = build_network(NetworkOptions.from_args(args), max(1, num_features // len(MODALITIES[args.modal])),
                                num_classes, torch.device('cpu'))
        load_weights(network, state, path)
        normalization = Normalization.load(Path(path).with_name('normalization.npz')) if args.normalize else None
        return cls(network, class_names, EvaluatorOptions.from_args(args), normalization).eval()

    def forward(self, features: Tensor) -> Outputs:
        """Return the outputs of the network for sampled features (N, T, M D), which are normalized here."""
        dtype = next(self.network.parameters()).dtype
        return self.network(((features - self.mean) * self.scale).to(dtype))

    def localize(self, features: Features | Sequence[Features], duration: float | None = None,
                 fps: float | None = None) -> list[Row]:
        """Return the detections in a video, sorted by start.

        features: (L, M D), RGB first, or a list with (L, D) of each stream. A row lasts as long as in the run, unless
        the duration of the video (seconds) or the frame rate `fps` of the features is given. Raises InputError for
        features or numbers that do not fit.
        """
        return self.rows(self.detect(features, duration, fps))

    def events(self, features: Features | Sequence[Features], duration: float | None = None,
               fps: float | None = None) -> list[Row]:
        """Return the events in a video, sorted by start; the arguments are those of `localize`."""
        return self.rows(select_events(self.detect(features, duration, fps), self.options.events))

    def rows(self, detections: Detections) -> list[Row]:
        """Return detections as rows, sorted by start."""
        start, end = detections.segments.T
        order = np.lexsort((end, detections.label, start))  # as in detections.csv
        columns = [column[order].tolist() for column in (detections.label, start, end, detections.scores)]
        return [Row(self.class_names[label], *numbers) for label, *numbers in zip(*columns, strict=True)]

    @torch.inference_mode()
    def detect(self, features: Features | Sequence[Features], duration: float | None, fps: float | None) -> Detections:
        """Return the detections in a video; see `localize`."""
        options, streams = self.options, self.check(features)
        length = min(map(len, streams))
        rate = self.frame_rate(length, duration, fps)
        index = uniform_indices(length, options.num_segments)
        with np.errstate(over='ignore'):  # float64 beyond float32 becomes infinite
            sampled = np.concatenate([stream[index] for stream in streams], axis=1).astype(np.float32)
        if not np.isfinite(sampled).all():
            raise InputError(f'features: NaN or infinite in row {index[~np.isfinite(sampled).all(axis=1)][0]}; extract '
                             f'them again')
        out = self(torch.from_numpy(sampled)[None].to(self.mean.device))
        probabilities = out.video_logits.softmax(dim=1).cpu().numpy()
        classes = predict_classes(probabilities, options.localization.class_th)
        classes &= [name != NEGATIVE for name in self.class_names]
        found = localize(out.selection.cpu().numpy(), probabilities, np.array([length]),
                         options.localization._replace(feature_fps=rate), classes)
        return Detections([''], self.class_names, found.video, found.label, found.segments, found.scores)

    def check(self, features: Features | Sequence[Features]) -> list[np.ndarray]:
        """Return the streams of a video, of L rows each and M D values together."""
        given = features if isinstance(features, (list, tuple)) else [features]
        streams = [array.detach().float().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
                   for array in given]
        width, modalities = self.feature_dim, self.modalities
        num_features, shapes = len(modalities) * width, [stream.shape for stream in streams]
        allowed = [(num_features,)], [(width,)] * len(modalities)
        if [shape[1:] for shape in shapes] not in allowed or not all(map(len, streams)):
            form = f'an array (L, {num_features}), or a list of {" and ".join(modalities)}, (L, {width}) each,'
            raise InputError(f'features: must be {form} as in the training; found {truncate(shapes)}')
        if wrong := [stream.dtype for stream in streams if not np.issubdtype(stream.dtype, np.floating)]:
            raise InputError(f'features: must be floating point numbers, found {wrong[0]}')
        lengths = [len(stream) for stream in streams]
        if max(lengths) - min(lengths) > MAX_LENGTH_MISMATCH:
            raise InputError(f'features: {lengths[0]} rgb rows but {lengths[1]} flow rows; extract both again with the '
                             f'same stride')
        return streams

    def frame_rate(self, length: int, duration: float | None, fps: float | None) -> np.ndarray:
        """Return the frame rate of the features of a video: (1,)."""
        known = {'duration': duration, 'fps': fps}
        for name, value in known.items():
            if value is not None and not 0 < value < math.inf:
                raise InputError(f'{name} {value}: must be a positive number')
        seconds, rate = (np.array([math.nan if value is None else value]) for value in known.values())
        time_base = TimeBase([''], np.array([length]), seconds, rate, np.zeros(1),
                             self.options.feature_fps if duration is None and fps is None else OWN_RATE,
                             self.options.localization.snippet_frames)
        if np.isnan(time_base.frame_rates()).any():
            raise InputError(f'features: the run has --feature_fps {OWN_RATE}, the rate of each video; give the '
                             f'duration or the fps of this one')
        return time_base.frame_rates()
