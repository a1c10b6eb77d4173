"""Every kind of id has a type, so that no integer is taken for another kind."""

from typing import NewType

import numpy as np
import numpy.typing as npt

PageId = NewType("PageId", int)
SlotId = NewType("SlotId", int)
"""A row of the running batch: index into every per-request array."""
Serial = NewType("Serial", int)
"""Names one sequence for as long as the engine knows it; never used twice."""
PageKey = NewType("PageKey", bytes)
"""Digest of a salt and all tokens up to and including one page."""

Pages = npt.NDArray[np.int32]
Tokens = npt.NDArray[np.int32]

RequestId = NewType("RequestId", int)
"""Names one request in the whole fleet; never used twice."""
DeviceGroupId = NewType("DeviceGroupId", int)
"""A device group; while it serves, also the instance that runs on it."""
ModelId = NewType("ModelId", str)
KindId = NewType("KindId", str)
"""A kind of device groups: all of a kind hold as much, are as fast and cost as much."""
MoveId = NewType("MoveId", int)
"""One attempt to move one request; a later attempt has another id."""
CopyId = NewType("CopyId", int)
"""Names one copy of a request on one device; later ones are higher, in the whole fleet.
The owner's copy is the one whose tokens count."""
NO_COPY = CopyId(0)
"""Lower than all that are given out."""
Epoch = NewType("Epoch", int)
"""One admission of one host to a fleet; whatever is said under another one is not
heard. Never used twice."""
FrontId = NewType("FrontId", int)
"""One front end of a fleet, for as long as its process lives; never used twice."""

FRONT_BITS = 40
"""A request's id is its front end's, shifted so far, and a number of its own."""


def front_of(request: RequestId) -> FrontId:
    """Returns the front end that has the stream of a request."""
    return FrontId(request >> FRONT_BITS)
