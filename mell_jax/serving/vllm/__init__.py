"""The published contract `vllm.grpc.engine.VllmEngine`, as gateways speak it.

bytes -> rpcs -> Servicer -> convert -> frontend.generate -> convert -> bytes
"""
