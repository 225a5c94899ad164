# The walk of a diff: two trees side by side, reading only where their oids differ. See diff.walk.


cdef class Pair:
    """Two inner nodes of one place, and how far their runs were compared."""

    cdef WayNode a, b
    cdef int i, j, level


cdef int whole_width(Inner* inner, int start) except -1:
    """Width of the run that starts at a slot; a child that has more slots, elsewhere, is malformed."""
    cdef int width = run_width(inner, start), slot
    if start + width > inner.slot_count:
        raise CorruptionError(BAD_INNER)
    for slot in range(start, start + width):
        if inner.slots[slot] != inner.slots[start]:
            raise CorruptionError(BAD_INNER)
    return width


cdef class DiffWalk:
    """The differences of two trees whose roots are inner nodes, a batch at a time.

    Runs in which one side is a leaf and the other is not are left to the caller: see ``step``.
    """

    cdef Ways ways
    cdef list stack
    cdef Py_ssize_t leaf_max
    cdef int max_level
    cdef bint with_values

    def __cinit__(self, Ways ways not None, old, new, bint with_values):
        cdef Visit here
        self.ways = ways
        self.leaf_max = ways.shape.leaf_max
        self.max_level = ways.shape.max_level
        self.with_values = with_values
        self.stack = []
        here.serial = here.epoch = 0
        a = ways.fetch(None, &here, some_bytes(old[0]), some_bytes(old[1]))
        b = ways.fetch(None, &here, some_bytes(new[0]), some_bytes(new[1]))
        if type(a) is not WayNode or type(b) is not WayNode:
            raise ValueError("both roots are inner nodes")
        self.push(<WayNode>a, <WayNode>b, 0)

    cdef void push(self, WayNode a, WayNode b, int level):
        cdef Pair pair = Pair.__new__(Pair)
        pair.a = a
        pair.b = b
        pair.i = pair.j = 0
        pair.level = level
        self.stack.append(pair)

    def step(self, Py_ssize_t limit):
        """(differences, run): up to about ``limit`` differences, then the run to go on with by hand.

        ``run`` is (before, after, level) as in ``diff``, or None. Both empty: the end.
        """
        cdef list out = []
        cdef object run = None
        cdef Visit here
        txn = self.ways.enter(&here)
        try:
            while self.stack and run is None and len(out) < limit:
                run = self.advance(txn, &here, <Pair>self.stack[len(self.stack) - 1], out)
        finally:
            if txn is not None:
                txn.abort()
        return out, run

    cdef object advance(self, object txn, Visit* here, Pair pair, list out):
        """Compare the next runs of a pair that differ."""
        cdef Inner* a = &pair.a.inner
        cdef Inner* b = &pair.b.inner
        cdef int left, right, end, old, new
        cdef bint is_old_leaf, is_new_leaf
        while pair.i < a.slot_count and pair.j < b.slot_count:
            left = whole_width(a, pair.i)
            right = whole_width(b, pair.j)
            old = a.slots[pair.i]
            new = b.slots[pair.j]
            if pair.i != pair.j or left != right or (old == EMPTY_SLOT) != (new == EMPTY_SLOT):
                return self.take_run(pair)
            if same_child(a, old, b, new):
                pair.i += left
                pair.j += left
                continue
            is_old_leaf = holds_leaf(a, old, pair.level, self.leaf_max, self.max_level)
            is_new_leaf = holds_leaf(b, new, pair.level, self.leaf_max, self.max_level)
            if is_old_leaf != is_new_leaf:
                return self.take_run(pair)
            pair.i += left
            pair.j += left
            if is_old_leaf:
                diff_leaves(
                    self.ways.leaf_body(txn, here, pair.a, old), self.ways.leaf_body(txn, here, pair.b, new),
                    self.with_values, out,
                )
            elif pair.level >= self.max_level:
                raise CorruptionError(TOO_DEEP)
            else:
                self.push(
                    self.ways.inner_child(txn, here, pair.a, old), self.ways.inner_child(txn, here, pair.b, new),
                    pair.level + 1,
                )
            return None
        if pair.i != a.slot_count or pair.j != b.slot_count:
            raise CorruptionError(BAD_INNER)
        self.stack.pop()
        return None

    cdef object take_run(self, Pair pair):
        """The run of both sides that begins here, as segments. See ``uneven_runs``."""
        cdef Inner* a = &pair.a.inner
        cdef Inner* b = &pair.b.inner
        cdef int width, end = max(pair.i + whole_width(a, pair.i), pair.j + whole_width(b, pair.j))
        before = []
        while pair.i < a.slot_count and pair.i < end:
            width = whole_width(a, pair.i)
            before.append(segment_at(a, pair.i, width))
            pair.i += width
        after = []
        while pair.j < b.slot_count and pair.j < end:
            width = whole_width(b, pair.j)
            after.append(segment_at(b, pair.j, width))
            pair.j += width
        return before, after, pair.level


cdef class LeafWalk:
    """The leaves of a tree whose root is an inner node, in path order, some at a time."""

    cdef Ways ways
    cdef list stack
    cdef Py_ssize_t leaf_max
    cdef int max_level

    def __cinit__(self, Ways ways not None, tree):
        cdef Visit here
        self.ways = ways
        self.leaf_max = ways.shape.leaf_max
        self.max_level = ways.shape.max_level
        here.serial = here.epoch = 0
        root = ways.fetch(None, &here, some_bytes(tree[0]), some_bytes(tree[1]))
        if type(root) is not WayNode:
            raise ValueError("the root is an inner node")
        self.stack = [[root, 0]]

    def step(self, Py_ssize_t limit):
        """Bodies of the next leaves, about ``limit``; none: the end."""
        cdef list out = [], place
        cdef WayNode node
        cdef int slot, child
        cdef Visit here
        txn = self.ways.enter(&here)
        try:
            while self.stack and len(out) < limit:
                place = self.stack[len(self.stack) - 1]
                node = place[0]
                slot = place[1]
                if slot >= node.inner.slot_count:
                    self.stack.pop()
                    continue
                place[1] = slot + whole_width(&node.inner, slot)
                child = node.inner.slots[slot]
                if child == EMPTY_SLOT:
                    continue
                if holds_leaf(&node.inner, child, len(self.stack) - 1, self.leaf_max, self.max_level):
                    out.append(self.ways.leaf_body(txn, &here, node, child))
                    continue
                if len(self.stack) > self.max_level:
                    raise CorruptionError(TOO_DEEP)
                self.stack.append([self.ways.inner_child(txn, &here, node, child), 0])
        finally:
            if txn is not None:
                txn.abort()
        return out


cdef bint holds_leaf(Inner* inner, int child, int level, Py_ssize_t leaf_max, int max_level) noexcept nogil:
    """Whether a child of a node at a level is a leaf: by its count and size, or at the deepest level."""
    cdef uint64_t count = column_at(inner, 0, child), size = column_at(inner, 1, child)
    if level >= max_level or count <= 1:
        return True
    if count > <uint64_t>leaf_max or size > <uint64_t>leaf_max:
        return False
    return size + ENTRY_BYTES * count <= <uint64_t>leaf_max
