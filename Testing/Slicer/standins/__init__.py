"""Stand-ins for what a running Slicer adds to its MRML core: PythonQt, CTK, the qMRML widgets and the application.

They offer what `slicer_api.json` lists, which was read from a running Slicer, and behave as PythonQt does. What can't
be done outside of Slicer raises `NotImplementedError`; it never pretends.
"""
