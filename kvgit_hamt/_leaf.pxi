# Leaves. Spec: docs/format.md, "Leaf".

cdef struct Leaf:
    Bytes tags
    Bytes kinds  # NULL when all values are inline
    Bytes ends
    Bytes heap
    Bytes locs  # NULL when there are no places
    Py_ssize_t count
    Py_ssize_t total  # bytes of the heap
    Py_ssize_t payload
    int width  # of an end


cdef inline uint64_t end_at(Leaf* leaf, Py_ssize_t index) noexcept nogil:
    """An end by its number in the flat column; the caller has checked the number."""
    if leaf.width == 2:
        return leaf.ends[2 * index] | <uint64_t>leaf.ends[2 * index + 1] << 8
    return load_le(leaf.ends + 4 * index, 4)


cdef inline uint64_t start_at(Leaf* leaf, Py_ssize_t index) noexcept nogil:
    return end_at(leaf, 2 * index - 1) if index else 0


cdef int open_leaf(bytes body, Leaf* leaf) except -1:
    """Check all columns of a leaf against its length, and find them."""
    if body is None:
        raise TypeError("a body is bytes, not None")
    return open_leaf_at(data_of(body), PyBytes_GET_SIZE(body), leaf)


cdef int open_leaf_at(Bytes data, Py_ssize_t size, Leaf* leaf) except -1:
    cdef int flags
    cdef uint64_t columns, last = 0, end
    cdef Py_ssize_t index, blobs = 0, rest
    if size < HEADER_BYTES or data[0] != LEAF:
        raise CorruptionError(_node.NOT_A_LEAF)
    flags = data[2] | data[3] << 8
    leaf.count = <Py_ssize_t>load_le(data + 4, 4)
    leaf.width = 4 if flags & WIDE else 2
    columns = <uint64_t>leaf.count * (1 + (1 if flags & KINDS else 0) + 2 * leaf.width)
    if data[1] != VERSION or flags & ~(WIDE | KINDS) or columns > <uint64_t>(size - HEADER_BYTES):
        raise CorruptionError(BAD_LEAF)
    leaf.tags = data + HEADER_BYTES
    leaf.kinds = leaf.tags + leaf.count if flags & KINDS else NULL
    leaf.ends = leaf.tags + leaf.count * (2 if flags & KINDS else 1)
    leaf.heap = data + HEADER_BYTES + columns
    for index in range(2 * leaf.count):
        end = end_at(leaf, index)
        if end < last:
            raise CorruptionError(BAD_LEAF)
        last = end
    rest = size - HEADER_BYTES - <Py_ssize_t>columns
    if last > <uint64_t>rest:
        raise CorruptionError(BAD_LEAF)
    leaf.total = <Py_ssize_t>last
    leaf.payload = size - rest + leaf.total
    rest -= leaf.total
    if leaf.kinds != NULL:
        for index in range(leaf.count):
            if leaf.kinds[index] == BLOB_VALUE:
                blobs += 1
                if end_at(leaf, 2 * index + 1) - end_at(leaf, 2 * index) != REF_BYTES:
                    raise CorruptionError(BAD_LEAF)
            elif leaf.kinds[index] != INLINE:
                raise CorruptionError(BAD_LEAF)
    if rest != 0 and rest != PLACE_BYTES * blobs:
        raise CorruptionError(BAD_LEAF)
    leaf.locs = data + leaf.payload if rest else NULL
    return 0


cdef inline bytes key_at(Leaf* leaf, Py_ssize_t index):
    cdef uint64_t start = start_at(leaf, index)
    return cut_bytes(leaf.heap + start, <Py_ssize_t>(end_at(leaf, 2 * index) - start))


cdef object value_at(Leaf* leaf, Py_ssize_t index):
    cdef uint64_t middle = end_at(leaf, 2 * index)
    cdef Bytes at = leaf.heap + middle
    cdef Py_ssize_t before, blobs = 0
    if leaf.kinds == NULL or leaf.kinds[index] == INLINE:
        return cut_bytes(at, <Py_ssize_t>(end_at(leaf, 2 * index + 1) - middle))
    loc = b""
    if leaf.locs != NULL:
        for before in range(index):
            blobs += leaf.kinds[before] == BLOB_VALUE
        loc = cut_bytes(leaf.locs + PLACE_BYTES * blobs, PLACE_BYTES)
    return named(_BlobRef, (cut_bytes(at, 32), load_le(at + 32, 8), loc))


cdef inline bint is_key(Leaf* leaf, Py_ssize_t index, Bytes key, Py_ssize_t length) noexcept nogil:
    cdef uint64_t start = start_at(leaf, index)
    return (
        end_at(leaf, 2 * index) - start == <uint64_t>length
        and memcmp(leaf.heap + start, key, length) == 0
    )


def leaf_find(bytes body not None, int tag, bytes key not None):
    """See node.leaf_find."""
    if not 0 <= tag <= 255:
        raise ValueError("a tag is a byte")
    return find_in(data_of(body), PyBytes_GET_SIZE(body), tag, data_of(key), PyBytes_GET_SIZE(key))


cdef object find_in(Bytes data, Py_ssize_t size, int tag, Bytes wanted, Py_ssize_t length):
    """The value of a key in a leaf of ``size`` bytes."""
    cdef Leaf leaf
    cdef Py_ssize_t index = 0, rest
    cdef uint64_t start, middle, end
    cdef const void* hit
    if size < HEADER_BYTES or data[2] or data[3] or data[6] or data[7]:
        open_leaf_at(data, size, &leaf)
        for index in range(leaf.count):
            if is_key(&leaf, index, wanted, length):
                return value_at(&leaf, index)
        return None
    leaf.count = data[4] | <Py_ssize_t>data[5] << 8
    rest = size - HEADER_BYTES - 5 * leaf.count
    if rest < 0:
        raise CorruptionError(BAD_LEAF)
    leaf.width = 2
    leaf.tags = data + HEADER_BYTES
    leaf.ends = leaf.tags + leaf.count
    leaf.heap = leaf.ends + 4 * leaf.count
    while index < leaf.count:
        hit = memchr(leaf.tags + index, tag, leaf.count - index)
        if hit == NULL:
            break
        index = <Bytes>hit - leaf.tags
        start = start_at(&leaf, index)
        middle = end_at(&leaf, 2 * index)
        end = end_at(&leaf, 2 * index + 1)
        if start > middle or middle > end or end > <uint64_t>rest:
            raise CorruptionError(BAD_LEAF)
        if middle - start == <uint64_t>length and memcmp(leaf.heap + start, wanted, length) == 0:
            return cut_bytes(leaf.heap + middle, <Py_ssize_t>(end - middle))
        index += 1
    return None


def leaf_keys(bytes body not None):
    """See node.leaf_keys."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    open_leaf(body, &leaf)
    return [key_at(&leaf, index) for index in range(leaf.count)]


def leaf_items(bytes body not None):
    """See node.leaf_items."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    open_leaf(body, &leaf)
    return [(key_at(&leaf, index), value_at(&leaf, index)) for index in range(leaf.count)]


def leaf_inline_items(bytes body not None):
    """See node.leaf_inline_items."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    open_leaf(body, &leaf)
    if leaf.kinds != NULL:
        raise CorruptionError(BAD_LEAF)
    return [(key_at(&leaf, index), value_at(&leaf, index)) for index in range(leaf.count)]


def leaf_texts(bytes body not None):
    """See descent.leaf_texts."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    cdef uint64_t start
    open_leaf(body, &leaf)
    if leaf.kinds != NULL:
        raise CorruptionError(BAD_LEAF)
    out = []
    for index in range(leaf.count):
        start = start_at(&leaf, index)
        key = (<const char*>leaf.heap + start)[: end_at(&leaf, 2 * index) - start].decode("utf-8")
        out.append((key, value_at(&leaf, index)))
    return out


def leaf_payload_length(bytes body not None):
    """See node.leaf_payload_length."""
    cdef Leaf leaf
    if PyBytes_GET_SIZE(body) > 2 and not data_of(body)[2] & KINDS:
        return PyBytes_GET_SIZE(body)
    open_leaf(body, &leaf)
    return leaf.payload


def leaf_stats(bytes body not None):
    """See node.leaf_stats."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    open_leaf(body, &leaf)
    extra = 0
    if leaf.kinds != NULL:
        for index in range(leaf.count):
            if leaf.kinds[index] == BLOB_VALUE:
                extra += load_le(leaf.heap + end_at(&leaf, 2 * index) + 32, 8)
                extra -= REF_BYTES
    return leaf.count, leaf.total, extra


def leaf_diff(bytes old not None, bytes new not None):
    """See node.leaf_diff."""
    cdef list out = []
    diff_leaves(old, new, True, out)
    return out


cdef int diff_leaves(bytes old, bytes new, bint with_values, list out) except -1:
    """Add (key, old value, new value) of what differs; values empty if they are not asked for."""
    cdef Leaf a, b
    cdef Py_ssize_t i, j = 0, at
    cdef uint64_t start
    cdef uint8_t* taken
    open_leaf(old, &a)
    open_leaf(new, &b)
    if a.kinds != NULL or b.kinds != NULL:
        out.extend(_node.leaf_diff(old, new))
        return 0
    taken = <uint8_t*>PyMem_Malloc(a.count + 1)
    if taken == NULL:
        raise MemoryError
    memset(taken, 0, a.count + 1)
    try:
        # both are in path order, so what is equal mostly stands where the search goes on
        i = 0
        for j in range(b.count):
            start = start_at(&b, j)
            at = find_from(&a, i, b.heap + start, <Py_ssize_t>(end_at(&b, 2 * j) - start), b.tags[j], taken)
            if at < 0:
                out.append((key_at(&b, j), None, value_at(&b, j) if with_values else b""))
                continue
            taken[at] = 1
            i = at + 1
            if not same_value(&a, at, &b, j):
                if with_values:
                    out.append((key_at(&b, j), value_at(&a, at), value_at(&b, j)))
                else:
                    out.append((key_at(&b, j), b"", b""))
        for i in range(a.count):
            if not taken[i]:
                out.append((key_at(&a, i), value_at(&a, i) if with_values else b"", None))
    finally:
        PyMem_Free(taken)
    return 0


cdef inline bint same_value(Leaf* a, Py_ssize_t i, Leaf* b, Py_ssize_t j) noexcept nogil:
    cdef uint64_t left = end_at(a, 2 * i), right = end_at(b, 2 * j)
    cdef uint64_t length = end_at(a, 2 * i + 1) - left
    return end_at(b, 2 * j + 1) - right == length and memcmp(a.heap + left, b.heap + right, length) == 0


cdef Py_ssize_t find_from(
    Leaf* leaf, Py_ssize_t hint, Bytes key, Py_ssize_t length, int tag, Bytes taken
) noexcept nogil:
    """Index of a key that was not taken yet; -1 if there is none. Looks at ``hint`` first."""
    cdef Py_ssize_t index = 0
    cdef const void* hit
    if hint < leaf.count and not taken[hint] and leaf.tags[hint] == tag and is_key(leaf, hint, key, length):
        return hint
    while index < leaf.count:
        hit = memchr(leaf.tags + index, tag, leaf.count - index)
        if hit == NULL:
            return -1
        index = <Bytes>hit - leaf.tags
        if not taken[index] and is_key(leaf, index, key, length):
            return index
        index += 1
    return -1


cdef bytes pack_leaf(Py_ssize_t count, Py_ssize_t total, Leaf* out):
    """An uninitialised leaf of inline entries, and where its columns go."""
    cdef int width = 4 if total > 0xFFFF else 2
    cdef bytes body = new_bytes(HEADER_BYTES + count * (1 + 2 * width) + total)
    cdef uint8_t* data = room_of(body)
    data[0] = LEAF
    data[1] = VERSION
    data[2] = WIDE if width == 4 else 0
    data[3] = 0
    store_le(data + 4, count, 4)
    out.count = count
    out.width = width
    out.total = total
    out.kinds = NULL
    out.tags = data + HEADER_BYTES
    out.ends = out.tags + count
    out.heap = out.ends + 2 * width * count
    return body
