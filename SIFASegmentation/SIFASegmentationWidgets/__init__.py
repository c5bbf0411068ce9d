"""What both modules share of Slicer: nodes to plain data and back, job processes, tables and plots.

Everything here may touch slicer, qt and vtk; nothing here computes.
"""
