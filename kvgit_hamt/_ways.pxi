# Ways: from a root to a leaf, over inner nodes that are linked in memory and leaves where they lie
# in LMDB's map. See docs/design/007-reading-in-place.md.
#
# A pointer into the map is good for as long as its page is: while a read transaction of the same
# snapshot (transaction id) is open, in the same mapping (epoch). LMDB never writes into a page of its
# newest snapshot, so a pointer that was taken in an earlier transaction of the same id is good again.
# Each walk opens a transaction, compares both numbers, and keeps hold of the GIL while it follows one.
# It keeps its own numbers (Visit): those of Ways may by then be another thread's.


cdef class Door:
    """What leads into a map: shared by an environment and the stores over it.

    Attributes:
        begin: opens a read transaction; None while the environment is closed.
        records: the database that a walk reads.
        epoch: counted on by whoever unmaps or moves the map, before and after.
    """

    cdef public object begin
    cdef public object records
    cdef public uint64_t epoch

    def __cinit__(self):
        self.begin = None
        self.records = None
        self.epoch = 0


cdef struct Kid:
    PyObject* node  # a WayNode, owned; NULL until it was seen
    Bytes leaf  # in the map, its check verified; good under the stamp of its parent
    Py_ssize_t size  # of the leaf, without the check
    uint64_t visit  # the last that read it


cdef struct Visit:  # of one transaction
    uint64_t serial  # the stamp of what it may follow
    uint64_t epoch  # of the mapping in which it was begun


cdef class WayNode:
    """A sound inner node and what is known of its children."""

    cdef bytes body
    cdef Inner inner
    cdef Kid* kids
    cdef uint64_t stamp

    def __dealloc__(self):
        cdef int child
        if self.kids != NULL:
            for child in range(self.inner.count):
                if self.kids[child].node != NULL:
                    let_go(self.kids[child].node)
            PyMem_Free(self.kids)


cdef int letting_go = 0  # how many nodes deep; forged trees may link without end
cdef list let_go_later = []


cdef void let_go(PyObject* node) noexcept:
    """Give up a node, without a recursion that follows the links as far as they go."""
    global letting_go
    if letting_go >= MAX_LETTING_GO:
        let_go_later.append(<object>node)
        Py_XDECREF(node)
        return
    letting_go += 1
    Py_XDECREF(node)
    letting_go -= 1
    while not letting_go and let_go_later:
        letting_go += 1
        let_go_later.pop()
        letting_go -= 1


cdef WayNode make_way_node(bytes body, int bits):
    cdef WayNode node = WayNode.__new__(WayNode)
    open_inner(body, &node.inner)
    if node.inner.bits != bits:
        raise CorruptionError(BAD_INNER)
    node.body = body
    node.stamp = 0
    node.kids = <Kid*>PyMem_Malloc(node.inner.count * sizeof(Kid))
    if node.kids == NULL:
        raise MemoryError
    memset(node.kids, 0, node.inner.count * sizeof(Kid))
    return node


cdef void cut_links(WayNode node) noexcept:
    """Forget the nodes below one."""
    cdef int child
    cdef PyObject* below
    for child in range(node.inner.count):
        below = node.kids[child].node
        if below != NULL:
            node.kids[child].node = NULL
            let_go(below)


cdef class Ways:
    """The linked nodes of one store.

    Args:
        store: has ``read``, ``accept``, ``cache`` and ``shape``.
        door: into the map of its backend; None when there is none.
        max_bytes: bound on the memory of linked nodes; past it all are forgotten.
    """

    cdef object store, shape, hash_of
    cdef Door door
    cdef dict nodes
    cdef int bits
    cdef Py_ssize_t size, most
    cdef uint64_t visit, serial, snapshot, epoch, leaves_read, bytes_read
    cdef public bint is_closed

    def __cinit__(self, store, Door door, Py_ssize_t max_bytes):
        self.store = store
        self.size = 0
        self.most = max_bytes
        self.shape = store.shape
        self.hash_of = self.shape.hash
        self.bits = self.shape.bits
        if self.bits not in (2, 4, 6):
            raise ValueError("bits are 2, 4 or 6")
        self.door = door
        self.nodes = {}
        self.serial = 1
        self.visit = 0
        self.snapshot = self.epoch = 0
        self.leaves_read = self.bytes_read = 0
        self.is_closed = False

    def clear(self):
        """Forget every node."""
        cdef dict fresh = {}
        cdef dict nodes = self.nodes
        self.nodes = fresh
        self.size = 0
        # with its links cut a ring of nodes is freed, too, and who still holds one does not hold all below
        for node in nodes.values():
            cut_links(<WayNode>node)

    def __del__(self):
        self.clear()

    @property
    def has_door(self):
        """Whether leaves can be read in the map."""
        return self.door is not None

    def take_counts(self):
        """(leaves, bytes) read in place since the last call."""
        found = self.leaves_read, self.bytes_read
        self.leaves_read = self.bytes_read = 0
        return found

    def read(self, bytes oid not None, bytes loc not None):
        """The verified body of a node: see ``Store.read``."""
        cdef Py_buffer buffer
        cdef Visit here
        found = self.nodes.get(loc if PyBytes_GET_SIZE(loc) else oid)
        if found is None:
            txn = self.enter(&here)
            try:
                found = self.fetch(txn, &here, oid, loc)
                if type(found) is memoryview:
                    PyObject_GetBuffer(found, &buffer, PyBUF_SIMPLE)
                    try:
                        return cut_bytes(<Bytes>buffer.buf, buffer.len - 8)
                    finally:
                        PyBuffer_Release(&buffer)
            finally:
                if txn is not None:
                    txn.abort()
        return found if type(found) is bytes else (<WayNode>found).body

    cdef object enter(self, Visit* here):
        """A read transaction whose pointers may be followed; None when there is none to be had."""
        cdef uint64_t snapshot
        self.visit += 1
        here.serial = here.epoch = 0
        if self.door is None or self.door.begin is None:
            return None
        here.epoch = self.door.epoch  # before: what is unmapped from here on is noticed
        try:
            txn = self.door.begin(self.door.records, None, False, True)
            snapshot = txn.id()
        except Exception:
            return None  # the ordinary read does it again, and tells what is wrong
        if snapshot != self.snapshot or self.epoch != here.epoch:
            self.snapshot = snapshot
            self.epoch = here.epoch
            self.serial += 1
        here.serial = self.serial
        return txn

    cdef inline bint is_mapped(self, Visit* here) noexcept:
        """Whether the transaction of a visit still holds the map in place."""
        return here.serial != 0 and here.epoch == self.door.epoch

    cdef object fetch(self, object txn, Visit* here, bytes oid, bytes loc):
        """A node that no link leads to: a WayNode, or a leaf as bytes or as a view of its record."""
        cdef bytes body
        cdef WayNode made
        cdef Py_ssize_t size
        key = loc if PyBytes_GET_SIZE(loc) else oid
        node = self.nodes.get(key)
        if node is not None:
            return node
        cached = self.store.cache.young.get(key)
        if cached is None and txn is not None and PyBytes_GET_SIZE(loc) == PLACE_BYTES:
            view = self.view_of(txn, here, oid, loc)
            if view is not None:
                return view
        body = some_bytes(self.store.read(oid, loc) if cached is None else cached)
        if not PyBytes_GET_SIZE(body) or data_of(body)[0] != INNER:
            return body
        node = self.nodes.get(key)
        if node is not None:  # of another thread, while this one read; what is linked is in ``nodes``
            return node
        made = make_way_node(body, self.bits)
        size = PyBytes_GET_SIZE(body) + WAY_OVERHEAD_BYTES + made.inner.count * sizeof(Kid)
        if self.size + size > self.most:
            self.clear()
        self.size += size
        self.nodes[key] = made
        return made

    cdef object view_of(self, object txn, Visit* here, bytes oid, bytes loc):
        """A leaf's record in the map, verified; None when it is something else, or cannot be had.

        What makes objects (py-lmdb a view, the check its arguments) may set off a collection, and so
        anything: the mapping is looked at again after it, and a copy is verified.
        """
        cdef Py_buffer buffer
        cdef Py_ssize_t size
        cdef bytes record
        try:
            view = txn.get(loc)
        except Exception:
            return None
        if type(view) is not memoryview or not self.is_mapped(here):
            return None
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        try:
            size = buffer.len
            if size <= 8 or size > MAX_VIEW_BYTES or (<Bytes>buffer.buf)[0] != LEAF:
                return None
            record = cut_bytes(<Bytes>buffer.buf, size)
        finally:
            PyBuffer_Release(&buffer)
        if not is_sealed(oid, record) or not self.is_mapped(here):
            return None
        self.leaves_read += 1
        self.bytes_read += size - 8
        return view

    cdef object find(
        self, object txn, Visit* here, bytes oid, bytes loc,
        uint64_t hi, uint64_t lo, Bytes key, Py_ssize_t length,
    ):
        """The value of a key in a tree, None when it has none. ``txn`` and ``here``: of ``enter``."""
        cdef int level = 0, child, slot
        cdef WayNode node
        cdef Kid* kid
        cdef Py_buffer buffer
        found = self.nodes.get(loc if PyBytes_GET_SIZE(loc) else oid)
        if found is None:
            found = self.fetch(txn, here, oid, loc)
        kid = NULL
        node = None
        while type(found) is WayNode:
            node = <WayNode>found
            slot = slot_of(hi, lo, self.bits, level)
            if slot < 0:
                slot = slot_at(self.shape, cut_bytes(key, length), hi, lo, level)
                if not 0 <= slot < node.inner.slot_count:
                    raise CorruptionError(BAD_INNER)
            child = node.inner.slots[slot]
            if child == EMPTY_SLOT:
                return None
            level += 1
            kid = &node.kids[child]
            if kid.node != NULL:
                found = <object>kid.node
                continue
            if kid.leaf != NULL and node.stamp == here.serial and txn is not None and self.is_mapped(here):
                self.count(kid)
                return find_in(kid.leaf, kid.size, lo & 255, key, length)
            found = self.fetch(txn, here, oid_at(&node.inner, child), loc_at(&node.inner, child))
            if type(found) is WayNode and kid.node == NULL:
                Py_INCREF(found)
                kid.node = <PyObject*>found
        if type(found) is bytes:
            return find_in(data_of(<bytes>found), PyBytes_GET_SIZE(<bytes>found), lo & 255, key, length)
        PyObject_GetBuffer(found, &buffer, PyBUF_SIMPLE)
        try:
            if kid != NULL and here.serial == self.serial:
                self.link(node, kid, <Bytes>buffer.buf, buffer.len - 8)
            return find_in(<Bytes>buffer.buf, buffer.len - 8, lo & 255, key, length)
        finally:
            PyBuffer_Release(&buffer)

    cdef object child_of(self, object txn, Visit* here, WayNode node, int child):
        """A child of a node: a WayNode, or a leaf as bytes. ``txn`` and ``here``: of ``enter``."""
        cdef Kid* kid = &node.kids[child]
        cdef Py_buffer buffer
        if kid.node != NULL:
            return <object>kid.node
        if kid.leaf != NULL and node.stamp == here.serial and txn is not None and self.is_mapped(here):
            self.count(kid)
            return cut_bytes(kid.leaf, kid.size)
        found = self.fetch(txn, here, oid_at(&node.inner, child), loc_at(&node.inner, child))
        if type(found) is bytes:
            return found
        if type(found) is WayNode:
            if kid.node == NULL:
                Py_INCREF(found)
                kid.node = <PyObject*>found
            return found
        PyObject_GetBuffer(found, &buffer, PyBUF_SIMPLE)
        try:
            if here.serial == self.serial:
                self.link(node, kid, <Bytes>buffer.buf, buffer.len - 8)
            return cut_bytes(<Bytes>buffer.buf, buffer.len - 8)
        finally:
            PyBuffer_Release(&buffer)

    cdef bytes leaf_body(self, object txn, Visit* here, WayNode node, int child):
        """A child that is a leaf, copied: whoever makes objects of it may set off anything."""
        found = self.child_of(txn, here, node, child)
        if type(found) is not bytes:
            raise CorruptionError(_node.NOT_A_LEAF)
        return <bytes>found

    cdef WayNode inner_child(self, object txn, Visit* here, WayNode node, int child):
        """A child that is an inner node."""
        found = self.child_of(txn, here, node, child)
        if type(found) is not WayNode:
            raise CorruptionError(BAD_INNER)
        return <WayNode>found

    cdef inline void count(self, Kid* kid) noexcept:
        """Count a leaf, once in a visit."""
        if kid.visit != self.visit:
            kid.visit = self.visit
            self.leaves_read += 1
            self.bytes_read += kid.size

    cdef void link(self, WayNode node, Kid* kid, Bytes leaf, Py_ssize_t size) noexcept:
        """Note where a child lies in the map."""
        cdef int child
        if node.stamp != self.serial:
            for child in range(node.inner.count):
                node.kids[child].leaf = NULL
            node.stamp = self.serial
        kid.leaf = leaf
        kid.size = size
        kid.visit = self.visit


def get(reader, shape, tree, bytes key not None):
    """See descent.get."""
    cdef uint64_t hi = 0, lo = 0
    cdef bytes oid, loc
    cdef Ways ways = ways_of(reader)
    cdef Visit here
    if ways is None:
        return get_afar(reader, shape, tree, key)
    path_bits(ways.hash_of, key, &hi, &lo)
    oid = some_bytes(tree[0])
    loc = some_bytes(tree[1])
    txn = ways.enter(&here)
    try:
        return ways.find(txn, &here, oid, loc, hi, lo, data_of(key), PyBytes_GET_SIZE(key))
    finally:
        if txn is not None:
            txn.abort()


def get_many(reader, shape, tree, list keys not None):
    """See descent.get_many."""
    cdef uint64_t hi = 0, lo = 0
    cdef Ways ways = ways_of(reader)
    cdef bytes key, oid = some_bytes(tree[0]), loc = some_bytes(tree[1])
    cdef dict found = {}
    cdef Visit here
    txn = None if ways is None else ways.enter(&here)
    if txn is None:  # what is far is better read a level at a time
        return get_many_afar(reader, shape, tree, keys)
    try:
        for each in keys:
            key = some_bytes(each)
            path_bits(ways.hash_of, key, &hi, &lo)
            value = ways.find(txn, &here, oid, loc, hi, lo, data_of(key), PyBytes_GET_SIZE(key))
            if value is not None:
                found[key] = value
    finally:
        txn.abort()
    return found


cdef object get_afar(reader, shape, tree, bytes key):
    """``get`` where nothing is linked."""
    cdef uint64_t hi = 0, lo = 0
    cdef int level = 0
    cdef bytes body = some_bytes(reader.read(tree[0], tree[1]))
    path_bits(shape.hash, key, &hi, &lo)
    while PyBytes_GET_SIZE(body) and data_of(body)[0] == INNER:
        link = inner_step(body, slot_at(shape, key, hi, lo, level))
        if link is None:
            return None
        body = some_bytes(reader.read(link[0], link[1]))
        level += 1
    return find_in(data_of(body), PyBytes_GET_SIZE(body), lo & 255, data_of(key), PyBytes_GET_SIZE(key))


cdef dict get_many_afar(reader, shape, tree, list keys):
    """``get_many`` where nothing is linked: one batched read a level."""
    cdef uint64_t hi = 0, lo = 0
    cdef int level = 0
    cdef bytes key, body
    cdef dict found = {}
    cdef list wanted = []
    for each in dict.fromkeys(keys):
        key = some_bytes(each)
        path_bits(shape.hash, key, &hi, &lo)
        wanted.append((key, hi, lo))
    groups = {(tree[0], tree[1]): wanted} if wanted else {}
    while groups:
        below = {}
        for each, group in zip(reader.read_many(list(groups)), groups.values(), strict=True):
            body = some_bytes(each)
            is_inner = PyBytes_GET_SIZE(body) and data_of(body)[0] == INNER
            for entry in group:
                key, hi, lo = entry
                if is_inner:
                    link = inner_step(body, slot_at(shape, key, hi, lo, level))
                    if link is not None:
                        below.setdefault(link, []).append(entry)
                    continue
                value = find_in(
                    data_of(body), PyBytes_GET_SIZE(body), lo & 255, data_of(key), PyBytes_GET_SIZE(key)
                )
                if value is not None:
                    found[key] = value
        groups = below
        level += 1
    return found


cdef Ways ways_of(reader):
    ways = getattr(reader, "ways", None)
    return <Ways>ways if type(ways) is Ways else None


cdef class Lookup:
    """``get`` and ``get_many`` of one tree without a Python frame in between.

    Args:
        tree: of which the values are.
        codec: has ``decode`` and ``decode_error``; None gives stored bytes as they are.
        encode: the check and encoding of a key that is out of the ordinary; raises what is due.
        refuse: raises what is due when the store was closed.
    """

    cdef Ways ways
    cdef bytes oid, loc
    cdef object codec, decode, encode, refuse
    cdef public bint is_closed

    def __cinit__(self, Ways ways not None, tree, codec, encode, refuse):
        self.ways = ways
        self.oid = some_bytes(tree[0])
        self.loc = some_bytes(tree[1])
        self.codec = codec
        self.decode = None if codec is None else codec.decode
        self.encode = encode
        self.refuse = refuse
        self.is_closed = False

    @property
    def has_door(self):
        """Whether many are best read one by one."""
        return self.ways.has_door

    cdef object value_of(self, object txn, Visit* here, object key):
        """The stored value, None when the key is absent."""
        cdef uint64_t hi = 0, lo = 0
        cdef Py_ssize_t length = 0
        cdef Bytes data
        cdef bytes encoded
        cdef Ways ways = self.ways
        if type(key) is str and PyUnicode_IS_COMPACT_ASCII(key):
            data = <Bytes>PyUnicode_AsUTF8AndSize(key, &length)
        else:
            length = MAX_KEY_BYTES + 1
        if length > MAX_KEY_BYTES or ways.hash_of is not _path_of or memchr(data, c"/", length) != NULL:
            encoded = some_bytes(self.encode(key))
            data = data_of(encoded)
            length = PyBytes_GET_SIZE(encoded)
            path_bits(ways.hash_of, encoded, &hi, &lo)
        else:
            digest_bits(cut_bytes(data, length), &hi, &lo)
        return ways.find(txn, here, self.oid, self.loc, hi, lo, data, length)

    cdef object decoded(self, object key, object value):
        if type(value) is not bytes:
            value = self.ways.store.read_blob(value)
        if self.decode is None:
            return value
        try:
            return self.decode(value)
        except Exception as error:
            raise self.codec.decode_error(key, error) from error

    def get(self, key, default=None):
        """The value of a key, ``default`` if it is absent. See ``TreeView.get``."""
        cdef Visit here
        if self.is_closed or self.ways.is_closed:
            self.refuse(self.is_closed)
        txn = self.ways.enter(&here)
        try:
            value = self.value_of(txn, &here, key)
        finally:
            if txn is not None:
                txn.abort()
        return default if value is None else self.decoded(key, value)

    def get_many(self, keys):
        """The values of those keys that are present. See ``TreeView.get_many``."""
        cdef Visit here
        if self.is_closed or self.ways.is_closed:
            self.refuse(self.is_closed)
        cdef dict found = {}
        cdef bint is_done = self.decode is None
        wanted = keys if type(keys) is list else list(keys)
        txn = self.ways.enter(&here)
        try:
            for key in wanted:
                value = self.value_of(txn, &here, key)
                if value is not None:
                    found[key] = value
                    is_done = is_done and type(value) is bytes
        finally:
            if txn is not None:
                txn.abort()
        if not is_done:
            for key, value in found.items():
                found[key] = self.decoded(key, value)
        return found
