# Keys, paths, and the way from a root to a leaf. Spec: docs/format.md, "Paths" and "Trees".

cdef int path_bits(object hash_of, bytes key, uint64_t* hi, uint64_t* lo) except -1:
    """The path of a key, by the hash of a shape."""
    cdef Bytes data = data_of(key)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key), at = 0
    cdef const void* hit
    cdef uint64_t bits = 0, part
    cdef int taken = 0
    if hash_of is not _path_of:
        path = hash_of(key)
        hi[0] = path >> 64
        lo[0] = path & 0xFFFFFFFFFFFFFFFF
        return 0
    while taken < MAX_DIRS * DIR_BITS:
        hit = memchr(data + at, c"/", size - at)
        if hit == NULL:
            break
        at = <Bytes>hit - data + 1
        part = xxh3_64_intdigest(key if at == size else cut_bytes(data, at))
        bits = bits << DIR_BITS | part >> (64 - DIR_BITS)
        taken += DIR_BITS
    digest_bits(key, hi, lo)
    if taken == 64:
        lo[0] = hi[0]
        hi[0] = bits
    elif taken:
        lo[0] = lo[0] >> taken | hi[0] << (64 - taken)
        hi[0] = hi[0] >> taken | bits << (64 - taken)
    return 0


cdef int digest_bits(bytes key, uint64_t* hi, uint64_t* lo) except -1:
    """The 128 bits of xxh3 over a key."""
    cdef bytes digest = xxh3_128_digest(key)
    if PyBytes_GET_SIZE(digest) != 16:
        raise ValueError("xxh3_128 has 16 bytes")
    hi[0] = load_be(data_of(digest))
    lo[0] = load_be(data_of(digest) + 8)
    return 0


cdef inline int slot_of(uint64_t hi, uint64_t lo, int bits, int level) noexcept nogil:
    """The slot at a level; -1 past the first 128 bits of the path."""
    cdef int shift = PATH_BITS - bits * (level + 1)
    cdef uint64_t value
    if shift < 0:
        return -1
    if shift >= 64:
        value = hi >> (shift - 64)
    elif shift == 0:
        value = lo
    else:
        value = lo >> shift | hi << (64 - shift)
    return <int>(value & ((1 << bits) - 1))


cdef int slot_at(object shape, bytes key, uint64_t hi, uint64_t lo, int level) except -1:
    """The slot at a level, by the tail of the key where its path has run out."""
    cdef int bits = shape.bits, slot
    if bits not in (2, 4, 6):
        raise ValueError("bits are 2, 4 or 6")
    slot = slot_of(hi, lo, bits, level)
    return shape.slot(key, (<object>hi) << 64 | lo, level) if slot < 0 else slot


def path_of(bytes key not None):
    """See path.path_of."""
    cdef uint64_t hi = 0, lo = 0
    path_bits(_path_of, key, &hi, &lo)
    return (<object>hi) << 64 | lo


cdef bint is_sealed(bytes oid, bytes record) except -1:
    """Whether a record has the check of its bytes, seeded from the oid."""
    return is_sealed_at(oid, data_of(record), PyBytes_GET_SIZE(record))


cdef bint is_sealed_at(bytes oid, Bytes record, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = length - 8
    cdef bytes check
    if size < 0 or PyBytes_GET_SIZE(oid) < 8:
        return False
    view = PyMemoryView_FromMemory(<char*>record, size, PyBUF_READ)
    check = xxh3_64_digest(view, load_le(data_of(oid), 8))
    return PyBytes_GET_SIZE(check) == 8 and memcmp(data_of(check), record + size, 8) == 0


def unseal(bytes oid not None, bytes record):
    """See wire.unseal."""
    if record is None:
        raise CorruptionError(f"object {oid.hex()} is missing from the store")
    if not is_sealed(oid, record):
        raise CorruptionError(f"object {oid.hex()} is damaged: its stored bytes fail the check")
    return cut_bytes(data_of(record), PyBytes_GET_SIZE(record) - 8)
