# The records of a batch while it grows. See pen.Pen.


cdef class Pen:
    """See pen.Pen."""

    cdef public list records
    cdef public dict new
    cdef public object next
    cdef public object end
    cdef public Py_ssize_t size
    cdef object full
    cdef bint placed
    cdef Py_ssize_t most

    cdef public object floor
    cdef object fetch, refuse

    def __init__(self, bint placed, first, end, Py_ssize_t max_bytes, full):
        self.placed = placed
        self.records = []
        self.new = {}
        self.next = first
        self.end = end
        self.size = 0
        self.most = max_bytes
        self.full = full
        self.floor = self.fetch = self.refuse = None

    def reads(self, floor, fetch, refuse):
        """See pen.Pen.reads."""
        self.floor = floor
        self.fetch = fetch
        self.refuse = refuse

    def read(self, bytes oid not None, bytes loc not None):
        """See pen.Pen.read."""
        new = self.new.get(loc if PyBytes_GET_SIZE(loc) else oid)
        if new is not None and new[0] == oid:
            return new[1]
        if (
            self.floor is not None and PyBytes_GET_SIZE(loc) == PLACE_BYTES
            and load_le(data_of(loc), PLACE_BYTES) >= <uint64_t>self.floor
        ):
            self.refuse()
        return self.fetch(oid, loc)

    def put(self, bytes oid not None, bytes body not None, place_count, kind):
        """See pen.Pen.put."""
        cdef bytes loc = b""
        if self.placed:
            if self.end is not None and self.next == self.end:
                self.full(True)
            loc = place_bytes(self.next)
            self.next += 1
        self.records.append(named(_NewRecord, (oid, body, place_count, kind)))
        self.size += PyBytes_GET_SIZE(body)
        self.new[loc if self.placed else oid] = (oid, body)
        if self.end is not None and self.size > self.most:
            self.full(False)
        return loc

    def put_leaf(self, bytes body not None):
        """See pen.Pen.put_leaf."""
        cdef Py_ssize_t length = leaf_payload_length(body), size = PyBytes_GET_SIZE(body)
        cdef bytes oid = sha256(body if length == size else cut_bytes(data_of(body), length)).digest()
        return oid, self.put(oid, body, (size - length) // PLACE_BYTES, None)

    def put_inner(self, bytes body not None):
        """See pen.Pen.put_inner."""
        cdef Inner inner
        cdef bytes oid
        if not find_inner(body, &inner):
            raise CorruptionError(BAD_INNER)
        oid = sha256(cut_bytes(data_of(body), inner.payload)).digest()
        return oid, self.put(oid, body, (PyBytes_GET_SIZE(body) - inner.payload) // PLACE_BYTES, None)

    def rewind(self, Py_ssize_t count):
        """See pen.Pen.rewind."""
        cdef Py_ssize_t left = len(self.records) - count
        if left < 0:
            raise ValueError("fewer records than are to go")
        dropped = self.records[left:]
        del self.records[left:]
        self.next -= count
        for number, record in enumerate(dropped):
            self.size -= PyBytes_GET_SIZE(some_bytes(record[1]))
            del self.new[place_bytes(self.next + number)]
        return dropped


cdef inline bytes place_bytes(uint64_t number):
    cdef bytes place = new_bytes(PLACE_BYTES)
    store_le(room_of(place), number, PLACE_BYTES)
    return place


def seal_all(records, uint64_t first):
    """See pen.seal_all."""
    cdef bytes oid, body, sealed, check
    cdef Py_ssize_t size
    cdef list out = []
    for record in records:
        oid = some_bytes(record[0])
        body = some_bytes(record[1])
        size = PyBytes_GET_SIZE(body)
        if PyBytes_GET_SIZE(oid) < 8:
            raise ValueError("an oid has 32 bytes")
        check = xxh3_64_digest(body, load_le(data_of(oid), 8))
        if PyBytes_GET_SIZE(check) != 8:
            raise ValueError("xxh3_64 has 8 bytes")
        sealed = new_bytes(size + 8)
        memcpy(room_of(sealed), data_of(body), size)
        memcpy(room_of(sealed) + size, data_of(check), 8)
        out.append((place_bytes(first), sealed))
        first += 1
    return out


def tally(records):
    """See pen.tally."""
    cdef Py_ssize_t nodes = 0, leaves = 0, blobs = 0, size = 0, length
    cdef bytes body
    for record in records:
        body = some_bytes(record[1])
        length = PyBytes_GET_SIZE(body)
        size += length + 8
        if length and data_of(body)[0] == LEAF:
            leaves += 1
            nodes += 1
        elif length and data_of(body)[0] == INNER:
            nodes += 1
        elif record[3] == "blob":
            blobs += 1
    return nodes, leaves, blobs, size
