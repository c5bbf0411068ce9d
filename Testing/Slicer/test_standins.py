"""The stand-ins behave as a running Slicer does."""

from __future__ import annotations


def test_sample(load_module):
    module = load_module("SampleModule")
    assert module.ui.applyButton.enabled is False
