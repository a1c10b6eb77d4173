"""The gRPC door: speaks `vllm.grpc.engine.VllmEngine`, so that ready-made gateways fit.

    bytes -> rpcs (parse, errors) -> servicer -> frontend.generate -> engine

`server` owns the socket, health and shutdown; `convert` and `status` are pure.
"""

import os

# gRPC writes what a client says when it leaves (GOAWAY) to standard error as it is, any
# number of lines that look like ours, and reads how much to say when it is imported,
# from nowhere but here. What the operator has set stays.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
