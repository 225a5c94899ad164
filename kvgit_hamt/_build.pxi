# Building runs: entries in any order, sorted by path, the last of each key kept.

cdef struct Row:
    uint64_t hi, lo
    uint64_t at  # of the record in the heap
    uint64_t order
    uint32_t key_length
    uint32_t value_length
    uint8_t kind


cdef int compare_rows(const void* left, const void* right) noexcept nogil:
    cdef const Row* a = <const Row*>left
    cdef const Row* b = <const Row*>right
    if a.hi != b.hi:
        return -1 if a.hi < b.hi else 1
    if a.lo != b.lo:
        return -1 if a.lo < b.lo else 1
    if a.order != b.order:
        return -1 if a.order < b.order else 1
    return 0


cdef class Builder:
    """See run.Builder."""

    cdef object shape
    cdef Row* rows
    cdef uint8_t* heap
    cdef Py_ssize_t count, room, heap_room
    cdef readonly Py_ssize_t size
    cdef dict locs

    def __cinit__(self, shape):
        self.shape = shape
        self.rows = NULL
        self.heap = NULL
        self.count = self.room = self.heap_room = self.size = 0
        self.locs = {}

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.heap)

    def __len__(self):
        return self.count

    cdef int reserve(self, Py_ssize_t length) except -1:
        """Room for one more row and its record."""
        cdef void* grown
        cdef Py_ssize_t room
        if self.count == self.room:
            room = 1024 if not self.room else self.room + self.room // 2
            grown = PyMem_Realloc(self.rows, room * sizeof(Row))
            if grown == NULL:
                raise MemoryError
            self.rows = <Row*>grown
            self.room = room
        if length > self.heap_room - self.size:
            room = max(self.heap_room + self.heap_room // 2, self.size + length, 65_536)
            grown = PyMem_Realloc(self.heap, room)
            if grown == NULL:
                raise MemoryError
            self.heap = <uint8_t*>grown
            self.heap_room = room
        return 0

    cdef int push(self, uint64_t hi, uint64_t lo, Bytes key, Py_ssize_t key_length, Bytes value,
                  Py_ssize_t value_length, int kind) except -1:
        cdef Row* row
        if key_length > 0xFFFFFFFF or value_length > 0xFFFFFFFF:
            raise OverflowError("a record over 4 GiB")
        self.reserve(key_length + value_length)
        row = &self.rows[self.count]
        row.hi = hi
        row.lo = lo
        row.at = self.size
        row.order = self.count
        row.key_length = <uint32_t>key_length
        row.value_length = <uint32_t>value_length
        row.kind = kind
        memcpy(self.heap + self.size, key, key_length)
        memcpy(self.heap + self.size + key_length, value, value_length)
        self.size += key_length + value_length
        self.count += 1
        return 0

    def add(self, bytes key not None, bytes stored not None, int kind=INLINE, bytes loc not None=b""):
        """See run.Builder.add."""
        cdef uint64_t hi = 0, lo = 0
        if kind not in (INLINE, BLOB_VALUE, DELETED):
            raise ValueError(f"unknown kind of value {kind}")
        path_bits(self.shape.hash, key, &hi, &lo)
        if loc:
            self.locs[self.count] = loc
        self.push(
            hi, lo, data_of(key), PyBytes_GET_SIZE(key), data_of(stored), PyBytes_GET_SIZE(stored), kind
        )

    def extend(self, list keys not None, list values not None):
        """See run.Builder.extend."""
        cdef uint64_t hi = 0, lo = 0
        cdef bytes key, value
        if len(keys) != len(values) or None in keys or None in values:
            raise ValueError("a value to each key")
        hash_of = self.shape.hash
        for key, value in zip(keys, values):
            path_bits(hash_of, key, &hi, &lo)
            self.push(
                hi, lo, data_of(key), PyBytes_GET_SIZE(key), data_of(value), PyBytes_GET_SIZE(value), INLINE
            )

    def extend_pairs(self, list pairs not None, encode, Py_ssize_t limit):
        """See run.Builder.extend_pairs."""
        cdef uint64_t hi = 0, lo = 0
        cdef Py_ssize_t index = 0, length = 0
        cdef Bytes data
        cdef bytes encoded, value
        hash_of = self.shape.hash
        is_plain = hash_of is _path_of
        for pair in pairs:
            if type(pair) is not tuple or len(<tuple>pair) != 2:
                break
            key = (<tuple>pair)[0]
            if type(key) is not str or not PyUnicode_IS_COMPACT_ASCII(key):
                break
            stored = (<tuple>pair)[1]
            if encode is not None:
                try:
                    stored = encode(stored)
                except Exception:
                    break  # whoever goes on from here says what is wrong
            if type(stored) is not bytes:
                break
            value = <bytes>stored
            data = <Bytes>PyUnicode_AsUTF8AndSize(key, &length)
            if length > MAX_KEY_BYTES or PyBytes_GET_SIZE(value) > limit:
                break
            encoded = cut_bytes(data, length)
            if is_plain and memchr(data, c"/", length) == NULL:
                digest_bits(encoded, &hi, &lo)
            else:
                path_bits(hash_of, encoded, &hi, &lo)
            self.push(hi, lo, data, length, data_of(value), PyBytes_GET_SIZE(value), INLINE)
            index += 1
        return index

    cdef int take(self, Columns run, Py_ssize_t i, Py_ssize_t j) except -1:
        """Add entries i to j of a run, whose paths are known."""
        cdef Py_ssize_t index
        cdef uint64_t start, middle
        run.check(i, j)
        if run.kinds != NULL and run.run[5]:
            for index in range(i, j):
                if run.kinds[index] == BLOB_VALUE:
                    self.locs[self.count + index - i] = run.run.loc(index)
        for index in range(i, j):
            start = run.start(index)
            middle = run.ends[2 * index]
            self.push(
                run.hi[index], run.lo[index], run.heap + start, <Py_ssize_t>(middle - start),
                run.heap + middle, <Py_ssize_t>(run.ends[2 * index + 1] - middle), run.kind(index),
            )
        return 0

    cdef bytes key(self, Py_ssize_t index):
        return cut_bytes(self.heap + self.rows[index].at, self.rows[index].key_length)

    cdef int settle(self) except -1:
        """Order rows of one path by tail and key, and keep the last of each key. They are sorted."""
        cdef Py_ssize_t i = 0, j, kept = 0, index
        cdef list group
        while i < self.count:
            j = i + 1
            while j < self.count and self.rows[j].hi == self.rows[i].hi and self.rows[j].lo == self.rows[i].lo:
                j += 1
            if j - i == 1:
                self.rows[kept] = self.rows[i]
                kept += 1
            else:
                last = {self.key(index): index for index in range(i, j)}
                group = sorted(last)
                if len(group) > 1:
                    tail = self.shape.tail
                    group.sort(key=lambda key: (tail(key), key))
                kept = self.keep(kept, i, [last[key] for key in group])
            i = j
        self.count = kept
        return 0

    cdef Py_ssize_t keep(self, Py_ssize_t kept, Py_ssize_t first, list chosen) except -1:
        """Move chosen rows, all at or past ``first``, to where ``kept`` <= ``first`` says."""
        cdef Py_ssize_t n = 0, count = len(chosen)
        cdef Row* copies = <Row*>PyMem_Malloc((count + 1) * sizeof(Row))
        if copies == NULL:
            raise MemoryError
        for n in range(count):
            copies[n] = self.rows[<Py_ssize_t>chosen[n]]
        memcpy(self.rows + kept, copies, count * sizeof(Row))
        PyMem_Free(copies)
        return kept + count

    cdef int drop_deleted(self) noexcept:
        cdef Py_ssize_t index, kept = 0
        for index in range(self.count):
            if self.rows[index].kind != DELETED:
                self.rows[kept] = self.rows[index]
                kept += 1
        self.count = kept
        return 0

    cdef void sort(self) noexcept:
        self.rows = sorted_rows(self.rows, self.count)
        self.room = self.count

    def finish(self):
        """See run.Builder.finish. The builder is spent then."""
        self.sort()
        self.settle()
        return self.columns()

    cdef object columns(self):
        cdef Py_ssize_t index, total = 0
        cdef Row* row
        cdef bint has_kinds = False
        cdef bytes heap, hi = new_bytes(8 * self.count), lo = new_bytes(8 * self.count)
        cdef bytes ends = new_bytes(16 * self.count), kinds = b""
        cdef uint64_t* end_out = <uint64_t*>room_of(ends)
        cdef uint8_t* out
        for index in range(self.count):
            row = &self.rows[index]
            (<uint64_t*>room_of(hi))[index] = row.hi
            (<uint64_t*>room_of(lo))[index] = row.lo
            total += row.key_length
            end_out[2 * index] = total
            total += row.value_length
            end_out[2 * index + 1] = total
            has_kinds = has_kinds or row.kind != INLINE
        heap = new_bytes(total)
        out = room_of(heap)
        for index in range(self.count):
            row = &self.rows[index]
            memcpy(out, self.heap + row.at, <Py_ssize_t>row.key_length + row.value_length)
            out += <Py_ssize_t>row.key_length + row.value_length
        if has_kinds:
            kinds = new_bytes(self.count)
            for index in range(self.count):
                room_of(kinds)[index] = self.rows[index].kind
        locs = b""
        if has_kinds and self.locs:
            found = [self.locs.get(self.rows[index].order) for index in range(self.count)]
            locs = b"".join([loc for loc in found if loc is not None])
        return named(_Run, (array("Q", hi), array("Q", lo), array("Q", ends), kinds, heap, locs))


cdef void sort_rows(Row* rows, Py_ssize_t count) noexcept nogil:
    """Few rows in place."""
    cdef Py_ssize_t index, at
    cdef Row row
    if count > FEW_ROWS:
        qsort(rows, count, sizeof(Row), compare_rows)
        return
    for index in range(1, count):
        row = rows[index]
        at = index
        while at and compare_rows(&row, &rows[at - 1]) < 0:
            rows[at] = rows[at - 1]
            at -= 1
        rows[at] = row


cdef Row* sorted_rows(Row* rows, Py_ssize_t count) noexcept:
    """The rows in order, where they were or in place of them: paths are even, so most come to their place
    by dealing them out by the leading bits in which they differ."""
    cdef uint64_t least, most
    cdef Py_ssize_t buckets = 1, index, number, start
    cdef Py_ssize_t* ends
    cdef Row* out
    cdef int shift = 0
    if count < MANY_ROWS:
        sort_rows(rows, count)
        return rows
    least = most = rows[0].hi
    for index in range(count):
        least = min(least, rows[index].hi)
        most = max(most, rows[index].hi)
    while buckets < count // 4:
        buckets *= 2
    while (most - least) >> shift >= <uint64_t>buckets:
        shift += 1
    out = <Row*>PyMem_Malloc(count * sizeof(Row))
    ends = <Py_ssize_t*>PyMem_Malloc((buckets + 1) * sizeof(Py_ssize_t))
    if out == NULL or ends == NULL:
        PyMem_Free(out)
        PyMem_Free(ends)
        qsort(rows, count, sizeof(Row), compare_rows)
        return rows
    memset(ends, 0, (buckets + 1) * sizeof(Py_ssize_t))
    for index in range(count):
        ends[((rows[index].hi - least) >> shift) + 1] += 1
    for number in range(buckets):
        ends[number + 1] += ends[number]
    for index in range(count):
        number = (rows[index].hi - least) >> shift
        out[ends[number]] = rows[index]
        ends[number] += 1
    start = 0
    for number in range(buckets):
        sort_rows(out + start, ends[number] - start)
        start = ends[number]
    PyMem_Free(ends)
    PyMem_Free(rows)
    return out


def flatten(pieces, shape, bint keep_deleted):
    """See run.Pieces.flatten."""
    cdef Builder builder
    cdef Columns columns
    if not pieces.pieces:
        return _run.EMPTY_RUN
    builder = Builder(shape)
    for run, i, j in pieces.pieces:
        columns = columns_of(run)
        if columns is None:
            return _run.Pieces.flatten(pieces, shape, keep_deleted)
        builder.take(columns, i, j)
    builder.sort()
    builder.settle()
    if not keep_deleted:
        builder.drop_deleted()
    return builder.columns()


def make_run(shape, list changes not None):
    """See run.make_run."""
    cdef Builder builder = Builder(shape)
    for key, value in changes:
        if value is None:
            builder.add(key, b"", DELETED)
        elif isinstance(value, _BlobRef):
            builder.add(key, value.oid + value.length.to_bytes(8, "little"), BLOB_VALUE, value.loc)
        else:
            builder.add(key, value)
    return builder.finish()
