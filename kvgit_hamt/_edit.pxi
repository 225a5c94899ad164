# Changes made below an inner node. See descent.change_inner.

cdef struct Kept:
    Bytes oid  # 32 bytes; alive as long as the body or the link that it came from
    Bytes loc
    uint64_t numbers[3]


cdef class Edited:
    """An inner node while changes are made below it."""

    cdef object editor, writer, shape, run
    cdef Columns columns
    cdef bytes body
    cdef Inner inner
    cdef int level, max_level
    cdef Py_ssize_t leaf_max, many
    cdef Kept kept[64]
    cdef list changed  # (slot, width, child or -1, what stands there now), in slot order
    cdef list held  # what ``kept`` points into
    cdef bint keeps_layout

    cdef int open(self, bytes body, int level) except -1:
        cdef int child, which
        open_inner(body, &self.inner)
        # a level as deep as this has no slot, and its bits no number
        if self.inner.bits != self.shape.bits or self.inner.count > 64 or not 0 <= level <= PATH_BITS * 8:
            raise CorruptionError(BAD_INNER)
        self.body = body
        self.level = level
        self.changed = []
        self.held = []
        self.keeps_layout = True
        for child in range(self.inner.count):
            self.kept[child].oid = self.inner.oids + 32 * child
            self.kept[child].loc = NULL if self.inner.locs == NULL else self.inner.locs + PLACE_BYTES * child
            for which in range(3):
                self.kept[child].numbers[which] = column_at(&self.inner, which, child)
        return 0

    cdef bint is_leaf(self, uint64_t count, uint64_t size, int width) noexcept:
        if count <= 1 or (width == 1 and self.level >= self.max_level):
            return True
        if count > <uint64_t>self.leaf_max or size > <uint64_t>self.leaf_max:
            return False
        return size + ENTRY_BYTES * count <= <uint64_t>self.leaf_max

    cdef int change(self, Py_ssize_t i, Py_ssize_t j) except -1:
        """Make changes i to j."""
        cdef int slot, width, child
        cdef Py_ssize_t end
        while i < j:
            slot = slot_of(self.columns.hi[i], self.columns.lo[i], self.inner.bits, self.level)
            if slot < 0:
                slot = self.run.slot(self.shape, i, self.level)
            if not 0 <= slot < self.inner.slot_count:
                raise CorruptionError(BAD_INNER)
            child = self.inner.slots[slot]
            if child == EMPTY_SLOT:
                width = 1
                while (
                    2 * width <= self.inner.slot_count
                    and is_empty(&self.inner, slot & ~(2 * width - 1), 2 * width)
                ):
                    width *= 2
                slot &= ~(width - 1)
                child = -1
            else:
                slot = <Bytes>memchr(self.inner.slots, child, self.inner.slot_count) - self.inner.slots
                width = run_width(&self.inner, slot)
            if slot + width > self.inner.slot_count:
                raise CorruptionError(BAD_INNER)
            end = bound_in(self.shape, self.columns, i, j, self.level, slot + width)
            if end <= i:
                raise CorruptionError(BAD_INNER)
            self.change_run(slot, width, child, i, end)
            i = end
        return 0

    cdef int change_run(self, int slot, int width, int child, Py_ssize_t i, Py_ssize_t j) except -1:
        """Make changes i to j in one run of slots, which holds a child, or is empty (-1)."""
        cdef uint64_t count, size
        cdef bytes oid, loc, below
        cdef Edited deeper
        if child < 0:
            return self.by_hand(slot, width, child, i, j)
        count = self.kept[child].numbers[0]
        size = self.kept[child].numbers[1]
        oid = cut_bytes(self.kept[child].oid, 32)
        loc = b"" if self.kept[child].loc == NULL else cut_bytes(self.kept[child].loc, PLACE_BYTES)
        if not self.is_leaf(count, size, width):
            below = self.writer.read(oid, loc)
            mark = self.writer.mark()
            deeper = self.another()
            deeper.open(below, self.level + 1)
            deeper.change(i, j)
            new = deeper.finish(mark, slot, width)
            if new is not None:
                self.note(slot, width, child, new)
            return 0
        if j - i > self.many:
            return self.by_hand(slot, width, child, i, j)
        below = splice(self.shape, self.writer.read(oid, loc), self.run, i, j, self.columns)
        if below is None:
            return 0
        numbers = leaf_stats(below)
        if not self.is_leaf(numbers[0], numbers[1], width):
            entries = run_of_leaf(self.shape, below)
            where = empty_segment(slot, width)
            planted = self.editor.plant(entries, 0, numbers[0], self.level, where)
            self.keeps_layout = False
            self.changed.append((slot, width, child, planted))
            return 0
        if numbers[0]:
            new = named(_Segment, (slot, width, numbers[0], numbers[1], numbers[2], b"", b"", below))
        else:
            new = empty_segment(slot, width)
        self.note(slot, width, child, new)
        return 0

    cdef int by_hand(self, int slot, int width, int child, Py_ssize_t i, Py_ssize_t j) except -1:
        """What is rare: the plain editor does it."""
        old = empty_segment(slot, width) if child < 0 else child_segment(&self.inner, slot, width, child)
        new = self.editor.change(old, self.level, self.run, i, j)
        if new != [old]:
            if child >= 0 and len(new) == 1:
                return self.note(slot, width, child, new[0])
            self.keeps_layout = False
            self.changed.append((slot, width, child, new))
        return 0

    cdef int note(self, int slot, int width, int child, object new) except -1:
        """One child instead of one child; it keeps its run, and can make no buddies join, if it did not shrink."""
        if (
            <int>new[1] != width
            or new[2] < self.kept[child].numbers[0] or new[3] < self.kept[child].numbers[1]
        ):
            self.keeps_layout = False
        self.changed.append((slot, width, child, [new]))
        return 0

    cdef Edited another(self):
        cdef Edited made = Edited.__new__(Edited)
        made.editor = self.editor
        made.writer = self.writer
        made.shape = self.shape
        made.run = self.run
        made.columns = self.columns
        made.leaf_max = self.leaf_max
        made.max_level = self.max_level
        made.many = self.many
        return made

    cdef object finish(self, object mark, int start, int width):
        """The segment of the node as it is now, put; None if nothing changed."""
        cdef int child, which
        cdef bytes oid, loc
        if not self.changed:
            return None
        if not self.keeps_layout:
            exchanged = []
            for slot, old_width, number, new in self.changed:
                if number < 0:
                    old = empty_segment(slot, old_width)
                else:
                    old = child_segment(&self.inner, slot, old_width, number)
                exchanged.append((old, new))
            whole = empty_segment(start, width)
            return self.editor.exchange(whole, self.body, exchanged, mark)
        for _, _, number, new in self.changed:
            segment = new[0]
            link = (segment[5], segment[6]) if segment[5] else self.writer.put_leaf(segment[7])
            self.held.append(link)
            child = number
            oid = some_bytes(link[0])
            loc = some_bytes(link[1])
            if PyBytes_GET_SIZE(oid) != 32 or PyBytes_GET_SIZE(loc) != (0 if self.inner.locs == NULL else PLACE_BYTES):
                raise CorruptionError(BAD_INNER)
            self.kept[child].oid = data_of(oid)
            self.kept[child].loc = data_of(loc) if PyBytes_GET_SIZE(loc) else NULL
            for which in range(3):
                self.kept[child].numbers[which] = segment[2 + which]
        body, count, size, extra = self.encode()
        oid, loc = self.writer.put_inner(body, count, mark)
        return named(_Segment, (start, width, count, size, extra, oid, loc, b""))

    cdef object encode(self):
        """(body, count, size, extra) of the node with the children that are kept now."""
        cdef uint64_t tops[3]
        cdef uint64_t sums[3]
        cdef int widths[3]
        cdef int child, which, count = self.inner.count
        cdef int place = 0 if self.inner.locs == NULL else PLACE_BYTES
        cdef uint8_t* at
        cdef bytes body
        memset(tops, 0, sizeof(tops))
        memset(sums, 0, sizeof(sums))
        for child in range(count):
            for which in range(3):
                tops[which] = max(tops[which], self.kept[child].numbers[which])
                if sums[which] + self.kept[child].numbers[which] < sums[which]:
                    raise OverflowError("totals of an inner node over 64 bits")
                sums[which] += self.kept[child].numbers[which]
        for which in range(3):
            widths[which] = width_of(tops[which])
        if not tops[2]:
            widths[2] = 0
        body = new_bytes(
            HEADER_BYTES + self.inner.slot_count + count * (32 + widths[0] + widths[1] + widths[2] + place)
        )
        at = room_of(body)
        memcpy(at, data_of(self.body), HEADER_BYTES)
        for which in range(3):
            at[4 + which] = widths[which]
        at[7] = 0
        memcpy(at + HEADER_BYTES, self.inner.slots, self.inner.slot_count)
        at += HEADER_BYTES + self.inner.slot_count
        for child in range(count):
            memcpy(at, self.kept[child].oid, 32)
            at += 32
        for which in range(3):
            if widths[which]:
                for child in range(count):
                    store_le(at, self.kept[child].numbers[which], widths[which])
                    at += widths[which]
        if place:
            for child in range(count):
                memcpy(at, self.kept[child].loc, PLACE_BYTES)
                at += PLACE_BYTES
        return body, sums[0], sums[1], sums[2]


cdef Edited edited_of(editor, run):
    """With what a whole operation shares; not yet opened."""
    cdef Edited edited = Edited.__new__(Edited)
    edited.editor = editor
    edited.writer = editor.writer
    edited.shape = editor.shape
    edited.run = run
    edited.leaf_max = edited.shape.leaf_max
    edited.max_level = edited.shape.max_level
    edited.many = editor.many
    return edited


def change_inner(editor, child not None, bytes body not None, int level, run, tuple span not None):
    """See descent.change_inner."""
    cdef Edited edited
    cdef Columns columns = columns_of(run)
    cdef Py_ssize_t i = span[0], j = span[1]
    if not -1 <= level < PATH_BITS * 8:
        raise CorruptionError(BAD_INNER)
    if columns is None:
        run = run._replace(hi=array("Q", run.hi), lo=array("Q", run.lo), ends=array("Q", run.ends))
        columns = Columns(run)
    columns.check(i, j)
    edited = edited_of(editor, run)
    edited.columns = columns
    mark = edited.writer.mark()
    edited.open(body, level + 1)
    edited.change(i, j)
    new = edited.finish(mark, child[0], child[1])
    return child if new is None else new


def merge_aligned(merger, list inner not None, list bodies not None, int level, mark):
    """See descent.merge_aligned."""
    cdef Edited ours = edited_of(merger, None)
    if len(inner) != 3 or len(bodies) != 3:
        raise ValueError("three nodes are merged")
    cdef Inner base, theirs
    cdef int child, slot, width
    cdef bint is_theirs = True, is_base
    ours.open(bodies[1], level)
    open_inner(bodies[0], &base)
    open_inner(bodies[2], &theirs)
    if (
        base.bits != ours.inner.bits or theirs.bits != ours.inner.bits
        or base.count != ours.inner.count or theirs.count != ours.inner.count
        or memcmp(base.slots, ours.inner.slots, base.slot_count) != 0
        or memcmp(theirs.slots, ours.inner.slots, base.slot_count) != 0
    ):
        raise ValueError("the three nodes do not have the same runs")
    for child in range(base.count):
        if same_child(&ours.inner, child, &theirs, child):
            continue
        if same_child(&theirs, child, &base, child):
            is_theirs = False
            continue
        slot = <Bytes>memchr(base.slots, child, base.slot_count) - base.slots
        if not 0 <= slot < base.slot_count:
            raise CorruptionError(BAD_INNER)
        width = run_width(&base, slot)
        here = child_segment(&ours.inner, slot, width, child)
        there = child_segment(&theirs, slot, width, child)
        if same_child(&ours.inner, child, &base, child):
            merged = [there]
        else:
            old = child_segment(&base, slot, width, child)
            merged = merge_below(ours, old, here, there, level)
        is_theirs = is_theirs and merged == [there]
        if merged == [here]:
            continue
        if len(merged) == 1:
            ours.note(slot, width, child, merged[0])
        else:
            ours.keeps_layout = False
            ours.changed.append((slot, width, child, merged))
    if is_theirs:
        return inner[2]
    made = ours.finish(mark, inner[1][0], inner[1][1])
    return inner[1] if made is None else made


cdef list merge_below(Edited above, old, here, there, int level):
    """Merge three children, no two of which are equal, of nodes at ``level``."""
    sides = (old, here, there)
    for side in sides:
        # an inner node has one slot: wider ones would lead on, past the deepest level, without an end
        if side[1] != 1 or above.is_leaf(side[2], side[3], side[1]):
            return above.editor.run([[old], [here], [there]], level, here[0], here[1])
    mark = above.writer.mark()
    bodies = [above.writer.read(side[5], side[6]) for side in sides]
    if not same_slots(bodies[0], bodies[1]) or not same_slots(bodies[1], bodies[2]):
        return above.editor.run([[old], [here], [there]], level, here[0], here[1])
    return [merge_aligned(above.editor, list(sides), bodies, level + 1, mark)]


cdef bint same_slots(bytes one, bytes other) except -1:
    cdef Inner a, b
    open_inner(one, &a)
    open_inner(other, &b)
    return a.bits == b.bits and a.count == b.count and memcmp(a.slots, b.slots, a.slot_count) == 0
