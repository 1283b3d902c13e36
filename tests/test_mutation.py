"""The table of faults that `python tests/mutation.py` plants."""

import mutation


def test_every_fault_can_be_planted():
    assert mutation.misplaced(mutation.ROOT) == []
    assert len({fault.name for fault in mutation.FAULTS}) == len(mutation.FAULTS) >= 60
