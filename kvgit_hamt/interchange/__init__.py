"""Import and export: JSON lines, CSV, msgpack, LMDB, SQLite, directories of files, and git repositories.

A *source* (``JsonLines``, ``Csv``, ``MsgpackStream``, ``LmdbTable``, ``SqliteTable``, ``Files``) is loaded
into a branch by ``load``; ``write_jsonl`` and its like write a snapshot or worktree out again. ``import_git``
and ``export_git`` take a git repository with its history. All of them stream.
"""

from kvgit_hamt.interchange.base import Meter, Progress, Source, Step, bytes_of, text_of
from kvgit_hamt.interchange.csvfile import Csv, write_csv
from kvgit_hamt.interchange.files import Files, write_files
from kvgit_hamt.interchange.gitexport import GitExportResult, export_git
from kvgit_hamt.interchange.gitimport import GitImportResult, import_git
from kvgit_hamt.interchange.jsonl import JsonLines, write_jsonl
from kvgit_hamt.interchange.lmdbfile import LmdbTable, write_lmdb
from kvgit_hamt.interchange.load import ImportResult, load
from kvgit_hamt.interchange.msgpackfile import MsgpackStream, write_msgpack
from kvgit_hamt.interchange.sqlitefile import SqliteTable, write_sqlite

__all__ = [
    "Csv",
    "Files",
    "GitExportResult",
    "GitImportResult",
    "ImportResult",
    "JsonLines",
    "LmdbTable",
    "Meter",
    "MsgpackStream",
    "Progress",
    "Source",
    "SqliteTable",
    "Step",
    "bytes_of",
    "export_git",
    "import_git",
    "load",
    "text_of",
    "write_csv",
    "write_files",
    "write_jsonl",
    "write_lmdb",
    "write_msgpack",
    "write_sqlite",
]
