"""A second gRPC door speaks KServe's `GRPCInferenceService`: text in, text out.

    ModelInferRequest -> asking -> frontend.generate -> answers -> ModelInferResponse

Tensors have the names of Triton's vLLM backend, so that its clients fit.
"""
