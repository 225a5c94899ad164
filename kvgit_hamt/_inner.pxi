# Inner nodes. Spec: docs/format.md, "Inner node".

cdef struct Inner:
    Bytes slots
    Bytes oids
    Bytes columns
    Bytes locs  # NULL when there are no places
    int bits
    int slot_count
    int count
    int widths[3]
    Py_ssize_t payload


cdef inline bint is_width(int width) noexcept nogil:
    return width == 1 or width == 2 or width == 4 or width == 8


cdef bint find_inner(bytes body, Inner* inner) noexcept:
    """Whether the lengths of an inner node fit; finds its columns. Child numbers are not looked at."""
    cdef Bytes data = data_of(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    if size < HEADER_BYTES or data[0] != INNER or data[1] != VERSION:
        return False
    inner.bits = data[2]
    inner.count = data[3]
    inner.widths[0] = data[4]
    inner.widths[1] = data[5]
    inner.widths[2] = data[6]
    if inner.bits != 2 and inner.bits != 4 and inner.bits != 6:
        return False
    if not is_width(data[4]) or not is_width(data[5]) or not (data[6] == 0 or is_width(data[6])):
        return False
    inner.slot_count = 1 << inner.bits
    inner.slots = data + HEADER_BYTES
    inner.oids = inner.slots + inner.slot_count
    inner.columns = inner.oids + 32 * inner.count
    inner.payload = HEADER_BYTES + inner.slot_count + inner.count * (32 + data[4] + data[5] + data[6])
    if size == inner.payload:
        inner.locs = NULL
    elif size == inner.payload + PLACE_BYTES * inner.count:
        inner.locs = data + inner.payload
    else:
        return False
    return True


cdef bint is_sound(bytes body, Inner* inner) noexcept:
    cdef int slot, live = 0
    if not find_inner(body, inner):
        return False
    for slot in range(inner.slot_count):
        if inner.slots[slot] != EMPTY_SLOT:
            live += 1
            if inner.slots[slot] >= inner.count:
                return False
    return live > 0


cdef int open_inner(bytes body, Inner* inner) except -1:
    if body is None:
        raise TypeError("a body is bytes, not None")
    if not is_sound(body, inner):
        raise CorruptionError(BAD_INNER)
    return 0


def is_sound_inner(bytes body not None):
    """See node.is_sound_inner."""
    cdef Inner inner
    return is_sound(body, &inner)


cdef inline uint64_t column_at(Inner* inner, int which, int child) noexcept nogil:
    """A number of a child: 0 count, 1 size, 2 extra. The child number was checked."""
    cdef Bytes at = inner.columns
    if inner.widths[which] == 0:
        return 0
    if which > 0:
        at += inner.widths[0] * inner.count
    if which > 1:
        at += inner.widths[1] * inner.count
    return load_le(at + inner.widths[which] * child, inner.widths[which])


cdef inline bytes oid_at(Inner* inner, int child):
    return cut_bytes(inner.oids + 32 * child, 32)


cdef inline bytes loc_at(Inner* inner, int child):
    return b"" if inner.locs == NULL else cut_bytes(inner.locs + PLACE_BYTES * child, PLACE_BYTES)


def inner_step(bytes body not None, int slot):
    """See node.inner_step."""
    cdef Inner inner
    cdef int child
    if not find_inner(body, &inner) or not 0 <= slot < inner.slot_count:
        raise CorruptionError(BAD_INNER)
    child = inner.slots[slot]
    if child == EMPTY_SLOT:
        return None
    if child >= inner.count:
        raise CorruptionError(BAD_INNER)
    return oid_at(&inner, child), loc_at(&inner, child)


def inner_stats(bytes body not None):
    """See node.inner_stats."""
    cdef Inner inner
    cdef int which, child
    open_inner(body, &inner)
    totals = [0, 0, 0]
    for which in range(3):
        for child in range(inner.count):
            totals[which] += column_at(&inner, which, child)
    return tuple(totals)


def inner_children(bytes body not None):
    """See node.inner_children."""
    cdef Inner inner
    cdef int child
    open_inner(body, &inner)
    return named(_Children, (
        cut_bytes(inner.slots, inner.slot_count),
        [oid_at(&inner, child) for child in range(inner.count)],
        [loc_at(&inner, child) for child in range(inner.count)],
        [column_at(&inner, 0, child) for child in range(inner.count)],
        [column_at(&inner, 1, child) for child in range(inner.count)],
        [column_at(&inner, 2, child) for child in range(inner.count)],
    ))


cdef inline object empty_segment(int start, int width):
    return named(_Segment, (start, width, 0, 0, 0, b"", b"", b""))


cdef object child_segment(Inner* inner, int start, int width, int child):
    return named(_Segment, (
        start, width, column_at(inner, 0, child), column_at(inner, 1, child),
        column_at(inner, 2, child), oid_at(inner, child), loc_at(inner, child), b"",
    ))


cdef int run_width(Inner* inner, int start) noexcept nogil:
    """Width of the run that starts at a slot: see node.inner_runs."""
    cdef int child = inner.slots[start]
    cdef int width = 1, slot, total = 0
    if child == EMPTY_SLOT:
        while not start & (2 * width - 1) and start + 2 * width <= inner.slot_count:
            for slot in range(start + width, start + 2 * width):
                if inner.slots[slot] != EMPTY_SLOT:
                    return width
            width *= 2
        return width
    for slot in range(inner.slot_count):
        total += inner.slots[slot] == child
    return total


cdef object segment_at(Inner* inner, int start, int width):
    if inner.slots[start] == EMPTY_SLOT:
        return empty_segment(start, width)
    return child_segment(inner, start, width, inner.slots[start])


def segments_of(bytes body not None):
    """See node.segments_of."""
    cdef Inner inner
    cdef int at = 0, width
    open_inner(body, &inner)
    out = []
    while at < inner.slot_count:
        width = run_width(&inner, at)
        out.append(segment_at(&inner, at, width))
        at += width
    return out


cdef bint same_child(Inner* a, int left, Inner* b, int right) noexcept nogil:
    """Whether two children have the same oid; two empty runs are the same."""
    if left == EMPTY_SLOT or right == EMPTY_SLOT:
        return left == right
    return memcmp(a.oids + 32 * left, b.oids + 32 * right, 32) == 0


def uneven_runs(bytes old not None, bytes new not None):
    """See descent.uneven_runs."""
    cdef Inner a, b
    cdef int i = 0, j = 0, i_end, j_end, end, left, right, first_i, first_j, left_count, right_count
    open_inner(old, &a)
    open_inner(new, &b)
    if a.bits != b.bits:
        raise CorruptionError(BAD_INNER)
    out = []
    while i < a.slot_count and j < b.slot_count:
        left = run_width(&a, i)
        right = run_width(&b, j)
        if i == j and left == right and same_child(&a, a.slots[i], &b, b.slots[j]):
            i += left
            j += right
            continue
        end = max(i + left, j + right)
        before = []
        while i < a.slot_count and i < end:
            left = run_width(&a, i)
            before.append(segment_at(&a, i, left))
            i += left
        after = []
        while j < b.slot_count and j < end:
            right = run_width(&b, j)
            after.append(segment_at(&b, j, right))
            j += right
        out.append((before, after))
    return out


cdef inline int width_of(uint64_t top) noexcept nogil:
    if top < 1 << 8:
        return 1
    if top < 1 << 16:
        return 2
    return 4 if top < <uint64_t>1 << 32 else 8


cdef struct Child:
    PyObject* oid  # borrowed from the segment or link that is held while this is used
    PyObject* loc
    uint64_t numbers[3]


cdef object encode_inner(Bytes slots, int slot_count, Child* children, int count):
    """(body, count, size, extra) of an inner node."""
    cdef uint64_t tops[3]
    cdef uint64_t sums[3]
    cdef int widths[3]
    cdef int child, which, bits = 0
    cdef Py_ssize_t place = 0
    cdef uint8_t* at
    cdef bytes body, link
    memset(tops, 0, sizeof(tops))
    memset(sums, 0, sizeof(sums))
    for child in range(count):
        link = <bytes>children[child].oid
        if PyBytes_GET_SIZE(link) != 32:
            raise CorruptionError(BAD_INNER)
        link = <bytes>children[child].loc
        if PyBytes_GET_SIZE(link) not in (0, PLACE_BYTES) or (child and PyBytes_GET_SIZE(link) != place):
            raise CorruptionError(BAD_INNER)
        place = PyBytes_GET_SIZE(link)
        for which in range(3):
            tops[which] = max(tops[which], children[child].numbers[which])
            if sums[which] + children[child].numbers[which] < sums[which]:
                raise OverflowError("totals of an inner node over 64 bits")
            sums[which] += children[child].numbers[which]
    for which in range(3):
        widths[which] = width_of(tops[which])
    if not tops[2]:
        widths[2] = 0
    while 1 << bits < slot_count:
        bits += 1
    body = new_bytes(HEADER_BYTES + slot_count + count * (32 + widths[0] + widths[1] + widths[2] + place))
    at = room_of(body)
    at[0] = INNER
    at[1] = VERSION
    at[2] = bits
    at[3] = count
    for which in range(3):
        at[4 + which] = widths[which]
    at[7] = 0
    at += HEADER_BYTES
    memcpy(at, slots, slot_count)
    at += slot_count
    for child in range(count):
        memcpy(at, PyBytes_AS_STRING(<bytes>children[child].oid), 32)
        at += 32
    for which in range(3):
        if widths[which]:
            for child in range(count):
                store_le(at, children[child].numbers[which], widths[which])
                at += widths[which]
    for child in range(count):
        memcpy(at, PyBytes_AS_STRING(<bytes>children[child].loc), place)
        at += place
    return body, sums[0], sums[1], sums[2]


cdef int take_child(Child* child, object link, object segment) except -1:
    """Fill a column from a link and a segment, both of which the caller holds on to."""
    if type(link) is not tuple or len(<tuple>link) != 2:
        raise TypeError("a link is (oid, loc)")
    if type(link[0]) is not bytes or type(link[1]) is not bytes:
        raise TypeError("a link is (oid, loc)")
    child.oid = <PyObject*>PyTuple_GET_ITEM(<tuple>link, 0)
    child.loc = <PyObject*>PyTuple_GET_ITEM(<tuple>link, 1)
    child.numbers[0] = segment[2]
    child.numbers[1] = segment[3]
    child.numbers[2] = segment[4]
    return 0


def inner_pack(list segments not None, list links not None):
    """See descent.inner_pack."""
    cdef Child children[64]
    cdef uint8_t slots[64]
    cdef int live = 0, at = 0, width, number
    for segment in segments:
        width = segment[1]
        if width < 1 or width > 64 - at:
            raise CorruptionError(BAD_INNER)
        number = EMPTY_SLOT
        if segment[2]:
            if live >= len(links):
                raise ValueError("fewer links than children")
            take_child(&children[live], links[live], segment)
            number = live
            live += 1
        memset(slots + at, number, width)
        at += width
    if at not in (4, 16, 64) or live == 0:
        raise CorruptionError(BAD_INNER)
    return encode_inner(slots, at, children, live)


def inner_replace(bytes body not None, list changed not None):
    """See descent.inner_replace."""
    cdef Inner inner
    cdef Child children[256]
    cdef int child, slot, which
    open_inner(body, &inner)
    held = [(oid_at(&inner, child), loc_at(&inner, child)) for child in range(inner.count)]
    for child in range(inner.count):
        children[child].oid = <PyObject*>PyTuple_GET_ITEM(<tuple>held[child], 0)
        children[child].loc = <PyObject*>PyTuple_GET_ITEM(<tuple>held[child], 1)
        for which in range(3):
            children[child].numbers[which] = column_at(&inner, which, child)
    for segment, link in changed:
        slot = segment[0]
        if not 0 <= slot < inner.slot_count or inner.slots[slot] == EMPTY_SLOT:
            raise CorruptionError(BAD_INNER)
        child = inner.slots[slot]
        held.append(link)
        take_child(&children[child], link, segment)
    return encode_inner(inner.slots, inner.slot_count, children, inner.count)
