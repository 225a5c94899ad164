# Batches: runs of changes, their building, cutting, planting and splicing into leaves.

cdef class Columns:
    """The columns of a run as plain memory, held while this lives. Spans are checked by ``check``."""

    cdef Py_buffer views[4]
    cdef int held
    cdef const uint64_t* hi
    cdef const uint64_t* lo
    cdef const uint64_t* ends
    cdef Bytes heap
    cdef Bytes kinds
    cdef Py_ssize_t count, heap_bytes
    cdef object run
    cdef bint is_plain  # no deletion and no blob

    def __cinit__(self, run):
        cdef int index
        cdef bytes kinds
        self.held = 0
        self.run = run
        for index in range(4):
            PyObject_GetBuffer(run[(0, 1, 2, 4)[index]], &self.views[index], PyBUF_SIMPLE)
            self.held += 1
        self.hi = <const uint64_t*>self.views[0].buf
        self.lo = <const uint64_t*>self.views[1].buf
        self.ends = <const uint64_t*>self.views[2].buf
        self.heap = <Bytes>self.views[3].buf
        self.heap_bytes = self.views[3].len
        self.count = self.views[0].len // 8
        kinds = run[3]
        self.is_plain = not kinds
        self.kinds = NULL
        if not self.is_plain:
            self.kinds = data_of(kinds)  # the run holds it
        if (
            self.views[0].len != 8 * self.count or self.views[1].len != 8 * self.count
            or self.views[2].len != 16 * self.count
            or (self.kinds != NULL and PyBytes_GET_SIZE(kinds) != self.count)
        ):
            raise ValueError("columns of a run differ in length")

    def __dealloc__(self):
        cdef int index
        for index in range(self.held):
            PyBuffer_Release(&self.views[index])

    cdef inline uint64_t start(self, Py_ssize_t index) noexcept nogil:
        return self.ends[2 * index - 1] if index else 0

    cdef inline int kind(self, Py_ssize_t index) noexcept nogil:
        return self.kinds[index] if self.kinds != NULL else INLINE

    cdef int check(self, Py_ssize_t i, Py_ssize_t j) except -1:
        """ValueError unless the entries i to j lie inside the columns and the heap, in order."""
        cdef Py_ssize_t index
        cdef uint64_t last
        if not 0 <= i <= j <= self.count:
            raise ValueError("a span outside its run")
        last = self.start(i)
        for index in range(2 * i, 2 * j):
            if self.ends[index] < last:
                raise ValueError("ends of a run out of order")
            last = self.ends[index]
        if last > <uint64_t>self.heap_bytes:
            raise ValueError("ends of a run past its heap")
        return 0


cdef Columns columns_of(object run):
    """The columns of a run; None when they are no flat memory (lists, in tests)."""
    try:
        return Columns(run)
    except TypeError:
        return None


cdef bytes leaf_of(Columns run, Py_ssize_t i, Py_ssize_t j):
    """The body of a leaf of entries i to j, all inline; the span was checked."""
    cdef Leaf out
    cdef uint64_t base = run.start(i)
    cdef Py_ssize_t total = <Py_ssize_t>(run.start(j) - base), index
    cdef bytes body = pack_leaf(j - i, total, &out)
    cdef uint8_t* ends = <uint8_t*>out.ends
    for index in range(j - i):
        (<uint8_t*>out.tags)[index] = <uint8_t>run.lo[i + index]
    for index in range(2 * (j - i)):
        store_le(ends, run.ends[2 * i + index] - base, out.width)
        ends += out.width
    memcpy(<uint8_t*>out.heap, run.heap + base, total)
    return body


# Splicing changes into a leaf


cdef struct Edit:
    Py_ssize_t at  # index in the leaf
    Py_ssize_t change  # index in the run
    bint takes  # the entry at ``at`` goes


cdef Py_ssize_t insertion_point(Leaf* leaf, object shape, Columns run, Py_ssize_t change) except -1:
    """See run._insertion_point."""
    cdef uint64_t hi = 0, lo = 0, start
    cdef Py_ssize_t low = 0, high = leaf.count, middle
    cdef bytes other, key
    hash_of = shape.hash
    while low < high:
        middle = (low + high) // 2
        other = key_at(leaf, middle)
        path_bits(hash_of, other, &hi, &lo)
        if hi == run.hi[change] and lo == run.lo[change]:
            start = run.start(change)
            key = cut_bytes(run.heap + start, <Py_ssize_t>(run.ends[2 * change] - start))
            is_before = (shape.tail(other), other) < (shape.tail(key), key)
        else:
            is_before = hi < run.hi[change] or (hi == run.hi[change] and lo < run.lo[change])
        if is_before:
            low = middle + 1
        else:
            high = middle
    return low


cdef Py_ssize_t find_edits(
    Leaf* leaf, object shape, Columns run, Py_ssize_t i, Py_ssize_t j, Edit* edits
) except -1:
    """What changes i to j do to a leaf, in its order; how many edits there are."""
    cdef Py_ssize_t change, at, count = 0, index, length, value_length
    cdef uint64_t start
    cdef int tag, kind
    cdef const void* hit
    for change in range(i, j):
        start = run.start(change)
        length = <Py_ssize_t>(run.ends[2 * change] - start)
        tag = run.lo[change] & 255
        kind = run.kind(change)
        at = -1
        index = 0
        while index < leaf.count:
            hit = memchr(leaf.tags + index, tag, leaf.count - index)
            if hit == NULL:
                break
            index = <Bytes>hit - leaf.tags
            if is_key(leaf, index, run.heap + start, length):
                at = index
                break
            index += 1
        if at >= 0 and kind != DELETED:
            value_length = <Py_ssize_t>(run.ends[2 * change + 1] - run.ends[2 * change])
            if (
                end_at(leaf, 2 * at + 1) - end_at(leaf, 2 * at) == <uint64_t>value_length
                and memcmp(leaf.heap + end_at(leaf, 2 * at), run.heap + run.ends[2 * change], value_length) == 0
            ):
                continue
        if at < 0 and kind == DELETED:
            continue
        edits[count].takes = at >= 0
        edits[count].change = change
        edits[count].at = at if at >= 0 else insertion_point(leaf, shape, run, change)
        if count and edits[count].at < edits[count - 1].at + (1 if edits[count - 1].takes else 0):
            raise CorruptionError(_node.LEAF_DISORDER)
        count += 1
    return count


cdef class Output:
    """A leaf that is being written; its columns are as large as was counted before."""

    cdef Leaf leaf
    cdef Py_ssize_t index, filled
    cdef bytes body

    def __cinit__(self, Py_ssize_t count, Py_ssize_t total):
        self.body = pack_leaf(count, total, &self.leaf)
        self.index = 0
        self.filled = 0

    cdef int add(self, int tag, Bytes record, Py_ssize_t key_length, Py_ssize_t length) except -1:
        cdef uint8_t* end
        if self.index >= self.leaf.count or length > self.leaf.total - self.filled:
            raise RuntimeError("a leaf was counted too small")
        (<uint8_t*>self.leaf.tags)[self.index] = <uint8_t>tag
        memcpy(<uint8_t*>self.leaf.heap + self.filled, record, length)
        end = <uint8_t*>self.leaf.ends + 2 * self.leaf.width * self.index
        store_le(end, self.filled + key_length, self.leaf.width)
        store_le(end + self.leaf.width, self.filled + length, self.leaf.width)
        self.filled += length
        self.index += 1
        return 0

    cdef int copy(self, Leaf* leaf, Py_ssize_t i, Py_ssize_t j) except -1:
        cdef Py_ssize_t index
        cdef uint64_t start
        for index in range(i, j):
            start = start_at(leaf, index)
            self.add(
                leaf.tags[index], leaf.heap + start, <Py_ssize_t>(end_at(leaf, 2 * index) - start),
                <Py_ssize_t>(end_at(leaf, 2 * index + 1) - start),
            )
        return 0

    cdef bytes finish(self):
        if self.index != self.leaf.count or self.filled != self.leaf.total:
            raise RuntimeError("a leaf was counted too large")
        return self.body


cdef bytes write_edits(Leaf* leaf, Columns run, Edit* edits, Py_ssize_t edit_count):
    cdef Py_ssize_t count = leaf.count, total = leaf.total, index, at = 0, change
    cdef uint64_t start
    cdef Output out
    for index in range(edit_count):
        change = edits[index].change
        if edits[index].takes:
            count -= 1
            total -= <Py_ssize_t>(end_at(leaf, 2 * edits[index].at + 1) - start_at(leaf, edits[index].at))
        if run.kind(change) != DELETED:
            count += 1
            total += <Py_ssize_t>(run.ends[2 * change + 1] - run.start(change))
    out = Output(count, total)
    for index in range(edit_count):
        out.copy(leaf, at, edits[index].at)
        at = edits[index].at + (1 if edits[index].takes else 0)
        change = edits[index].change
        if run.kind(change) != DELETED:
            start = run.start(change)
            out.add(
                run.lo[change] & 255, run.heap + start, <Py_ssize_t>(run.ends[2 * change] - start),
                <Py_ssize_t>(run.ends[2 * change + 1] - start),
            )
    out.copy(leaf, at, leaf.count)
    return out.finish()


def splice(shape, bytes body not None, run, Py_ssize_t i, Py_ssize_t j, Columns columns=None):
    """See run.splice. ``columns``: of the run, where they were checked already."""
    cdef Leaf leaf
    cdef Edit* edits
    cdef Edit few[8]
    cdef Py_ssize_t count, change
    open_leaf(body, &leaf)
    if columns is None:
        columns = columns_of(run)
        if columns is not None:
            columns.check(i, j)
    if columns is None or leaf.kinds != NULL:
        return _run.splice(shape, body, run, i, j)
    for change in range(i, j):
        if columns.kind(change) == BLOB_VALUE:
            return _run.splice(shape, body, run, i, j)
    edits = &few[0]
    if j - i > 8:
        edits = <Edit*>PyMem_Malloc((j - i) * sizeof(Edit))
        if edits == NULL:
            raise MemoryError
    try:
        count = find_edits(&leaf, shape, columns, i, j, edits)
        return write_edits(&leaf, columns, edits, count) if count else None
    finally:
        if edits != &few[0]:
            PyMem_Free(edits)


def leaf_join(list bodies not None):
    """See node.leaf_join."""
    cdef Leaf leaf
    cdef Py_ssize_t count = 0, total = 0
    cdef Output out
    for body in bodies:
        open_leaf(body, &leaf)
        if leaf.kinds != NULL:
            return _node.leaf_join(bodies)
        count += leaf.count
        total += leaf.total
    out = Output(count, total)
    for body in bodies:
        open_leaf(body, &leaf)
        out.copy(&leaf, 0, leaf.count)
    return out.finish()


def run_of_leaf(shape, bytes body not None):
    """See run.run_of_leaf."""
    cdef Leaf leaf
    cdef Py_ssize_t index
    cdef bytes hi, lo, ends
    cdef uint64_t* at
    open_leaf(body, &leaf)
    if leaf.kinds != NULL:
        return _run.run_of_leaf(shape, body)
    hi = new_bytes(8 * leaf.count)
    lo = new_bytes(8 * leaf.count)
    ends = new_bytes(16 * leaf.count)
    hash_of = shape.hash
    for index in range(leaf.count):
        path_bits(
            hash_of, key_at(&leaf, index), <uint64_t*>room_of(hi) + index, <uint64_t*>room_of(lo) + index
        )
    at = <uint64_t*>room_of(ends)
    for index in range(2 * leaf.count):
        at[index] = end_at(&leaf, index)
    return named(
        _Run,
        (array("Q", hi), array("Q", lo), array("Q", ends), b"", cut_bytes(leaf.heap, leaf.total), b""),
    )


# Dealing changes out to the children of an inner node


cdef Py_ssize_t bound_in(
    object shape, Columns run, Py_ssize_t i, Py_ssize_t j, int level, int slot
) except -1:
    """See Run.bound."""
    cdef int bits = shape.bits, keep = 64 - bits * (level + 1)
    cdef uint64_t goal
    cdef Py_ssize_t middle
    if slot == 1 << bits:
        return j
    if keep < 0:
        return run.run.bound(shape, i, j, level, slot)
    goal = <uint64_t>slot << keep
    if keep + bits < 64:
        goal |= run.hi[i] >> (keep + bits) << (keep + bits)
    while i < j:
        middle = (i + j) // 2
        if run.hi[middle] < goal:
            i = middle + 1
        else:
            j = middle
    return i


def touched(shape, bytes body not None, run, tuple span not None, int level):
    """See descent.touched."""
    cdef Inner inner
    cdef Py_ssize_t i = span[0], j = span[1], end
    cdef int slot, width
    cdef Columns columns = columns_of(run)
    if columns is None:
        columns = Columns(run._replace(hi=array("Q", run.hi), lo=array("Q", run.lo), ends=array("Q", run.ends)))
    columns.check(i, j)
    open_inner(body, &inner)
    if inner.bits != shape.bits or not 0 <= level <= PATH_BITS * 8:
        raise CorruptionError(BAD_INNER)
    out = []
    while i < j:
        slot = slot_of(columns.hi[i], columns.lo[i], inner.bits, level)
        if slot < 0:
            slot = run.slot(shape, i, level)
        if not 0 <= slot < inner.slot_count:
            raise CorruptionError(BAD_INNER)
        if inner.slots[slot] == EMPTY_SLOT:
            width = 1
            while 2 * width <= inner.slot_count and is_empty(&inner, slot & ~(2 * width - 1), 2 * width):
                width *= 2
            old = empty_segment(slot & ~(width - 1), width)
            slot &= ~(width - 1)
        else:
            slot = <Bytes>memchr(inner.slots, inner.slots[slot], inner.slot_count) - inner.slots
            width = run_width(&inner, slot)
            old = child_segment(&inner, slot, width, inner.slots[slot])
        if slot + width > inner.slot_count:
            raise CorruptionError(BAD_INNER)
        end = bound_in(shape, columns, i, j, level, slot + width)
        if end <= i:
            raise CorruptionError(BAD_INNER)
        out.append((old, i, end))
        i = end
    return out


cdef bint is_empty(Inner* inner, int start, int width) noexcept nogil:
    cdef int slot
    for slot in range(start, start + width):
        if inner.slots[slot] != EMPTY_SLOT:
            return False
    return True


# Planting a run as new nodes


cdef class Planter:
    cdef Columns run
    cdef object shape, writer
    cdef int bits, max_level
    cdef Py_ssize_t leaf_max

    def __cinit__(self, writer, shape, Columns run):
        self.writer = writer
        self.shape = shape
        self.run = run
        self.bits = shape.bits
        self.max_level = shape.max_level
        self.leaf_max = shape.leaf_max
        if self.bits not in (2, 4, 6):
            raise ValueError("bits are 2, 4 or 6")

    cdef Py_ssize_t cut(self, Py_ssize_t i, Py_ssize_t j, int bit) except -1:
        """See Run.cut."""
        cdef uint64_t goal, mask
        cdef const uint64_t* column = self.run.hi if bit < 64 else self.run.lo
        cdef Py_ssize_t middle
        if bit >= PATH_BITS:
            return self.run.run.cut(self.shape, i, j, bit)
        mask = <uint64_t>1 << (63 - bit % 64)
        goal = (column[i] & ~(mask | (mask - 1))) | mask
        while i < j:
            middle = (i + j) // 2
            if column[middle] < goal:
                i = middle + 1
            else:
                j = middle
        return i

    cdef int leaf(self, list out, Py_ssize_t i, Py_ssize_t j, int start, int width) except -1:
        cdef Py_ssize_t index
        cdef bint has_blobs = False
        cdef object size = self.run.start(j) - self.run.start(i)
        if not self.run.is_plain:
            for index in range(i, j):
                has_blobs = has_blobs or self.run.kinds[index] == BLOB_VALUE
        if has_blobs:
            body, extra = self.run.run.leaf(i, j), self.run.run.extra(i, j)
        else:
            body, extra = leaf_of(self.run, i, j), 0
        out.append(named(_Segment, (start, width, j - i, size, extra, b"", b"", body)))
        return 0

    cdef int plant(self, list out, Py_ssize_t i, Py_ssize_t j, int level, int start, int width) except -1:
        cdef Py_ssize_t size, middle
        cdef int half
        after = []
        while True:
            if i == j:
                out.append(empty_segment(start, width))
                break
            size = <Py_ssize_t>(self.run.start(j) - self.run.start(i))
            if (
                size + ENTRY_BYTES * (j - i) <= self.leaf_max or j - i <= 1
                or (width == 1 and level >= self.max_level)
            ):
                self.leaf(out, i, j, start, width)
                break
            if width == 1:
                out.append(self.inner(i, j, level + 1, start))
                break
            half = width // 2
            middle = self.cut(i, j, self.bits * (level + 1) - length_in_bits(width) + 1)
            if not i <= middle <= j:
                raise ValueError("a run is not in path order")
            if middle == i:
                out.append(empty_segment(start, half))
                start += half
            elif middle == j:
                after.append(empty_segment(start + half, half))
            else:
                self.plant(out, i, middle, level, start, half)
                start += half
                i = middle
            width = half
        out.extend(reversed(after))
        return 0

    cdef object inner(self, Py_ssize_t i, Py_ssize_t j, int level, int start):
        """An inner node, put. What is planted is canonical, so there are no buddies to join."""
        mark = self.writer.mark()
        segments = []
        self.plant(segments, i, j, level, 0, 1 << self.bits)
        links = []
        put_leaf = self.writer.put_leaf
        for segment in segments:
            if segment[2]:
                links.append((segment[5], segment[6]) if segment[5] else put_leaf(segment[7]))
        body, count, size, extra = inner_pack(segments, links)
        oid, loc = self.writer.put_inner(body, count, mark)
        return named(_Segment, (start, 1, count, size, extra, oid, loc, b""))


cdef inline int length_in_bits(int number) noexcept nogil:
    cdef int bits = 0
    while number >> bits:
        bits += 1
    return bits


def plant(writer, shape, run, tuple span not None, int level, where):
    """See descent.plant."""
    cdef Columns columns = columns_of(run)
    cdef Py_ssize_t i = span[0], j = span[1]
    cdef int start = where[0], width = where[1]
    cdef list out = []
    if columns is None:
        columns = Columns(run._replace(hi=array("Q", run.hi), lo=array("Q", run.lo), ends=array("Q", run.ends)))
    columns.check(i, j)
    Planter(writer, shape, columns).plant(out, i, j, level, start, width)
    return out
