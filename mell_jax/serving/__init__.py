"""The doors of a server: vLLM's gRPC, KServe's, OpenAI's HTTP, and an operator's.

    bytes --edge, http--> a protocol's folder --Ask--> frontend.generate --> engine

Each protocol has a folder that knows nothing of the others; `server` puts them into one
process, `processes` puts several such servers before one engine, `service` chooses.
"""
