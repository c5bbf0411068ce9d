"""Slicer code shared by both modules: conversion between nodes and plain data, job processes, tables and plots.

Everything here may use slicer, qt and vtk; computations belong in the libraries.
"""
