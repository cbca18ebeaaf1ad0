"""A folder in each layout, made once."""
import pytest

from ..helpers import generators

@pytest.fixture(scope='session')
def made(tmp_path_factory):
    "Makes a folder in a layout, once: `made('mvtec')` is the folder and the truth."
    done = {}
    def make(layout):
        if layout not in done:
            root = tmp_path_factory.mktemp(layout)/f'data {layout} ü'
            root.mkdir()
            done[layout] = root, generators[layout](root)
        return done[layout]
    return make
