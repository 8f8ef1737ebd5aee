"""Following logs while they are written: what was appended is read on from there, and lands where a fresh read would put it."""

from farfield.curves.follow.folder import LogFolder

__all__ = ["LogFolder"]
