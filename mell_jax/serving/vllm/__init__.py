"""Gateways speak the published contract `vllm.grpc.engine.VllmEngine`.

bytes -> rpcs -> Servicer -> convert -> frontend.generate -> convert -> bytes
"""
