"""Identifiers across processes."""

import os

from infra.ids import new_id


def test_a_forked_child_does_not_make_its_parents_identifiers_over_again():
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "\n".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as made_by_child:
        theirs = made_by_child.read().split("\n")
    assert os.waitpid(child, 0)[1] == 0
    ours = [new_id() for _ in range(100)]
    assert len(theirs) == 100
    assert not {text[14:] for text in ours} & {text[14:] for text in theirs}
