"""Shared fixtures: the folder of real data next to a developer's checkout."""
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / 'shared'


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder `../shared`; the test is skipped where it is absent, as in a user's clone."""
    if not SHARED.is_dir():
        pytest.skip(f'needs the real data in {SHARED}')
    return SHARED
