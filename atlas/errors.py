"""Errors that are meant for the person who typed the command.

Each message is whole sentences: what was given, what is expected, what to do. The doors print them without a traceback.
"""


class AtlasError(Exception):
    """Something outside the code went wrong: a file, a download, a disk, a picture. The run can be resumed."""


class ConfigError(AtlasError):
    """What was asked for cannot be done: a wrong key, a wrong layer, a folder that is not there."""
