"""The gRPC door: speaks `vllm.grpc.engine.VllmEngine`, so that ready-made gateways fit.

    bytes -> rpcs (parse, errors) -> servicer -> frontend.generate -> engine

`server` owns the socket, health and shutdown; `convert` and `status` are pure.
"""
