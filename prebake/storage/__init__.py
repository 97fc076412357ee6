"""Local files with atomic writes and locks, remote files, and a cache of them."""

import sys

if sys.platform == "win32":
    raise ImportError("prebake does not support Windows; use Linux or macOS (WSL 2 works: it is Linux)")
