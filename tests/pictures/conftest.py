"""Animations that are kept instead of written, which takes seconds."""

import pytest
from matplotlib.animation import FuncAnimation


@pytest.fixture
def saved(monkeypatch):
    """The animations that would have been saved; `_func(frame)` draws a frame into `_fig`."""
    kept = []

    def save(animation, path, **how):
        animation._draw_was_started = True  # otherwise it warns that nothing was drawn
        kept.append(animation)

    monkeypatch.setattr(FuncAnimation, "save", save)
    return kept
