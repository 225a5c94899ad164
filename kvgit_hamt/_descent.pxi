# Keys, paths, and the way from a root to a leaf. Spec: docs/format.md, "Paths" and "Trees".

cdef int path_bits(object hash_of, bytes key, uint64_t* hi, uint64_t* lo) except -1:
    """The path of a key, by the hash of a shape."""
    cdef Bytes data = data_of(key)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key), at = 0
    cdef const void* hit
    cdef uint64_t bits = 0, part
    cdef int taken = 0
    cdef bytes digest
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
    digest = xxh3_128_digest(key)
    if PyBytes_GET_SIZE(digest) != 16:
        raise ValueError("xxh3_128 has 16 bytes")
    hi[0] = load_be(data_of(digest))
    lo[0] = load_be(data_of(digest) + 8)
    if taken:
        lo[0] = lo[0] >> taken | hi[0] << (64 - taken)
        hi[0] = hi[0] >> taken | bits << (64 - taken)
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


cdef dict young_of(object reader):
    """The inner nodes that a reader has in its cache, by location; None where it has no cache."""
    cache = getattr(reader, "cache", None)
    young = None if cache is None else cache.young
    return young if type(young) is dict else None


cdef bytes body_in(dict young, bytes oid, bytes loc):
    """A cached body, or None."""
    if young is None:
        return None
    body = young.get(loc if PyBytes_GET_SIZE(loc) else oid)
    return body if type(body) is bytes else None


def get(reader, shape, tree, bytes key not None):
    """See descent.get."""
    cdef uint64_t hi = 0, lo = 0
    cdef Inner inner
    cdef int level = 0, child, slot
    cdef int bits = shape.bits
    cdef bytes oid = tree[0], loc = tree[1], body
    cdef dict young = young_of(reader)
    path_bits(shape.hash, key, &hi, &lo)
    body = body_in(young, oid, loc)
    if body is None:
        body = reader.read(oid, loc)
    while PyBytes_GET_SIZE(body) and data_of(body)[0] == INNER:
        slot = slot_of(hi, lo, bits, level)
        if slot < 0:
            slot = slot_at(shape, key, hi, lo, level)
        if not find_inner(body, &inner) or not 0 <= slot < inner.slot_count:
            raise CorruptionError(BAD_INNER)
        child = inner.slots[slot]
        if child == EMPTY_SLOT:
            return None
        if child >= inner.count:
            raise CorruptionError(BAD_INNER)
        level += 1
        if young is not None and inner.locs != NULL:
            loc = loc_at(&inner, child)
            cached = young.get(loc)
            if type(cached) is bytes:
                body = cached
                continue
            oid = oid_at(&inner, child)
        else:
            oid, loc = oid_at(&inner, child), loc_at(&inner, child)
            cached = body_in(young, oid, loc)
            if cached is not None:
                body = cached
                continue
        if young is not None and not reader.cache.old:
            return end_of_way(reader, shape, key, (hi, lo), (oid, loc), level)
        body = reader.read(oid, loc)
    return find_in(data_of(body), PyBytes_GET_SIZE(body), lo & 255, key)


cdef object end_of_way(reader, shape, bytes key, tuple path, tuple link, int level):
    """The value of a key below a node that is in no cache: mostly a leaf, which is not copied."""
    cdef bytes oid = link[0], loc = link[1], sealed
    cdef Py_ssize_t size
    cdef uint64_t lo = path[1]
    record = reader.read_record(oid, loc)
    if type(record) is bytes and is_sealed(oid, record):
        sealed = record
        size = PyBytes_GET_SIZE(sealed) - 8
        if size and data_of(sealed)[0] == LEAF:
            counters = reader.counters
            counters.nodes_read += 1
            counters.leaves_read += 1
            counters.bytes_read += size
            return find_in(data_of(sealed), size, lo & 255, key)
    groups = {}
    body = reader.accept(oid, loc, record)
    if not body or data_of(body)[0] != INNER:
        return find_in(data_of(body), PyBytes_GET_SIZE(body), lo & 255, key)
    seek(shape, young_of(reader), groups, (key, path[0], lo), body, level)
    for link, (level, _) in groups.items():
        return end_of_way(reader, shape, key, path, link, level)
    return None


cdef int seek(
    object shape, dict young, dict groups, tuple wanted, bytes body, int level
) except -1:
    """Go from an inner node as far as cached ones lead; note the link where the way goes on."""
    cdef uint64_t hi = wanted[1], lo = wanted[2]
    cdef bytes key = wanted[0], oid, loc
    cdef Inner inner
    cdef int child, slot
    while True:
        slot = slot_at(shape, key, hi, lo, level)
        if not find_inner(body, &inner) or not 0 <= slot < inner.slot_count:
            raise CorruptionError(BAD_INNER)
        child = inner.slots[slot]
        if child == EMPTY_SLOT:
            return 0
        if child >= inner.count:
            raise CorruptionError(BAD_INNER)
        oid = oid_at(&inner, child)
        loc = loc_at(&inner, child)
        level += 1
        body = body_in(young, oid, loc)
        if body is None:
            groups.setdefault((oid, loc), (level, []))[1].append(wanted)
            return 0


def get_many(reader, shape, tree, list keys not None):
    """See descent.get_many."""
    cdef uint64_t hi = 0, lo = 0
    cdef dict young = young_of(reader), groups, found = {}
    cdef list wanted = []
    cdef bytes body, key
    for key in dict.fromkeys(keys):
        path_bits(shape.hash, key, &hi, &lo)
        wanted.append((key, hi, lo))
    groups = {(tree[0], tree[1]): (0, wanted)} if wanted else {}
    while groups:
        bodies = reader.read_many(list(groups))
        below = {}
        for body, (level, group) in zip(bodies, groups.values(), strict=True):
            if body and data_of(body)[0] == INNER:
                for entry in group:
                    seek(shape, young, below, entry, body, level)
                continue
            for entry in group:
                key = (<tuple>entry)[0]
                value = leaf_find(body, (<tuple>entry)[2] & 255, key)
                if value is not None:
                    found[key] = value
        groups = below
    return found


cdef bint is_sealed(bytes oid, bytes record) except -1:
    """Whether a record has the check of its bytes, seeded from the oid."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(record) - 8
    cdef bytes check
    if size < 0 or PyBytes_GET_SIZE(oid) < 8:
        return False
    view = PyMemoryView_FromMemory(PyBytes_AS_STRING(record), size, PyBUF_READ)
    check = xxh3_64_digest(view, load_le(data_of(oid), 8))
    return PyBytes_GET_SIZE(check) == 8 and memcmp(data_of(check), data_of(record) + size, 8) == 0


def unseal(bytes oid not None, bytes record):
    """See wire.unseal."""
    if record is None:
        raise CorruptionError(f"object {oid.hex()} is missing from the store")
    if not is_sealed(oid, record):
        raise CorruptionError(f"object {oid.hex()} is damaged: its stored bytes fail the check")
    return cut_bytes(data_of(record), PyBytes_GET_SIZE(record) - 8)
