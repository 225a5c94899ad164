# cython: language_level=3, binding=True, embedsignature=False, boundscheck=True, wraparound=False
# cython: cdivision=True, initializedcheck=True, emit_code_comments=False
"""The compiled kernel: twins of plain functions, byte for byte; `kernel` chooses between them.

Nothing here trusts a byte. Whatever a node says of itself is compared with its length before an
access; what does not fit raises CorruptionError. Python objects are only made of what was checked.
The parts: nodes (leaf, inner), keys and descent, batches. Reference: node, path, run, descent.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memchr, memcmp, memcpy, memset

from array import array
from hashlib import sha256

from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128_digest

from kvgit_hamt import node as _node
from kvgit_hamt import path as _path
from kvgit_hamt import pen as _pen
from kvgit_hamt import run as _run
from kvgit_hamt.errors import CorruptionError

cdef extern from *:
    """
    #define new_tuple_of(kind, args) (PyTuple_Type.tp_new((PyTypeObject *)(kind), (args), NULL))
    """
    object new_tuple_of(object kind, object args)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    LEAF = 1
    INNER = 2
    VERSION = 1
    WIDE = 1
    KINDS = 2
    INLINE = 0
    BLOB_VALUE = 1
    DELETED = 2
    EMPTY_SLOT = 255
    REF_BYTES = 40
    PLACE_BYTES = 8
    HEADER_BYTES = 8
    ENTRY_BYTES = 5
    PATH_BITS = 128
    DIR_BITS = 16
    MAX_DIRS = 4
    MAX_KEY_BYTES = 65_535
    FEW_ROWS = 24  # sorted by insertion
    MANY_ROWS = 2_048  # dealt out first
    WAY_OVERHEAD_BYTES = 250  # dict entry and objects of a linked node
    MAX_LETTING_GO = 64  # nodes given up within one another
    MAX_VIEW_BYTES = 65_536  # larger records are copied: their check lets go of the GIL

cdef object _BlobRef = _node.BlobRef
cdef object _Entries = _node.Entries
cdef object _Children = _node.Children
cdef object _Segment = _node.Segment
cdef object _Run = _run.Run
cdef object _NewRecord = _pen.NewRecord
cdef object _path_of = _path.path_of
cdef str TOO_DEEP = _path.TOO_DEEP
cdef str BAD_LEAF = _node.BAD_LEAF
cdef str BAD_INNER = _node.BAD_INNER

ctypedef const uint8_t* Bytes


cdef inline Bytes data_of(bytes body) noexcept:
    return <Bytes>PyBytes_AS_STRING(body)


cdef inline uint8_t* room_of(bytes body) noexcept:
    """The bytes of an object that was just made and that nobody else has seen."""
    return <uint8_t*>PyBytes_AS_STRING(body)


cdef inline bytes some_bytes(object what):
    """The same object, which is bytes: ``cdef bytes`` lets None pass, whose length nobody may ask."""
    if type(what) is not bytes:
        raise TypeError(f"bytes are needed, not {type(what).__name__}")
    return <bytes>what


cdef inline bytes cut_bytes(Bytes start, Py_ssize_t length):
    return PyBytes_FromStringAndSize(<const char*>start, length)


cdef inline bytes new_bytes(Py_ssize_t length):
    return PyBytes_FromStringAndSize(NULL, length)


cdef inline uint64_t load_le(Bytes at, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(width):
        value |= <uint64_t>at[i] << (8 * i)
    return value


cdef inline uint64_t load_be(Bytes at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | at[i]
    return value


cdef inline void store_le(uint8_t* at, uint64_t value, int width) noexcept nogil:
    cdef int i
    for i in range(width):
        at[i] = <uint8_t>(value >> (8 * i))


cdef inline object named(object kind, tuple fields):
    """A named tuple without the detour over its Python constructor."""
    return new_tuple_of(kind, (fields,))


include "_leaf.pxi"
include "_inner.pxi"
include "_descent.pxi"
include "_ways.pxi"
include "_walks.pxi"
include "_batch.pxi"
include "_build.pxi"
include "_edit.pxi"
include "_pen.pxi"
