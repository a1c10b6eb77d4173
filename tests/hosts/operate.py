"""An operator of a real fleet, as a program: who may ask is in the head's network.

    python -m tests.hosts.operate ADDRESS SEED SECONDS

Sets a device group aside for some time, has requests move, and changes the policy and
back. It says what was done; what the fleet refuses is told, too, and is no error.
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from mell_jax.serving.proto import mell_admin_pb2 as pb
from mell_jax.serving.proto import mell_admin_pb2_grpc as pb_grpc

USUAL = "load_balance"
_OTHERS = ("consolidate", "mell", "best_fit")
_MOST_S = 30.0
_MOVES = 4
_REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)


def main(argv: Sequence[str]) -> int:
    """Operates; returns the exit status."""
    address, seed, seconds = argv[1], int(argv[2]), float(argv[3])
    rng = random.Random(seed)
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.AdminStub(channel)
        seen = tried(stub.Snapshot, pb.SnapshotRequest())
        if seen is None or not seen.instances:
            return 0
        one = rng.choice(sorted(seen.instances, key=lambda each: each.device))
        tried(stub.SetPolicy, pb.SetPolicyRequest(policy=rng.choice(_OTHERS)))
        drained = tried(stub.Drain, pb.DrainRequest(device=one.device))
        if drained is not None:
            state = pb.DeviceState.Name(drained.state)
            print(f"{one.host}/{one.number} is {state}", end=", ")
        placed = tried(stub.ListPlacements, pb.ListPlacementsRequest())
        for place in list(placed.placements if placed is not None else ())[:_MOVES]:
            to = rng.choice(seen.instances).device
            tried(stub.Migrate, pb.MigrateRequest(request=place.request, device=to))
        time.sleep(seconds)
        tried(stub.Undrain, pb.UndrainRequest(device=one.device))
        tried(stub.SetPolicy, pb.SetPolicyRequest(policy=USUAL))
    print("no more to do")
    return 0


def tried(call: Callable[..., Any], request: Any) -> Any:
    """Returns the answer; None if the fleet refuses, as things are."""
    try:
        return call(request, timeout=_MOST_S)
    except grpc.RpcError as error:
        if error.code() not in _REFUSED:
            raise
        print(f"{type(request).__name__}: {error.details()}", end=", ")
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
