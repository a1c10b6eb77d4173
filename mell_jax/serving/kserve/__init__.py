"""A second gRPC door: KServe's `inference.GRPCInferenceService`, text in and text out.

    ModelInferRequest -> asking -> frontend.generate -> answers -> ModelInferResponse

Tensors have the names of Triton's vLLM backend, so that its clients fit.
"""
