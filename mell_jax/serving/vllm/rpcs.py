"""Each method of `vllm.grpc.engine.VllmEngine` is a call of the servicer."""

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb

from mell_jax.serving.edge import Edge
from mell_jax.serving.vllm.servicer import Servicer

_UNSUPPORTED = {
    "Embed": "this server generates text; it has no embeddings",
    "FlushCache": "the prefix cache cannot be flushed from outside",
    "StartProfile": "profiling cannot be started from outside",
    "StopProfile": "profiling cannot be stopped from outside",
    "SubscribeKvEvents": "no events about cached pages are published",
}


def make_handler(servicer: Servicer, *, edge: Edge) -> grpc.GenericRpcHandler:
    """Makes handlers of the whole service; what is not built answers UNIMPLEMENTED."""
    return edge.handler(
        pb.DESCRIPTOR.services_by_name["VllmEngine"],
        unary={
            "Abort": servicer.abort,
            "HealthCheck": servicer.health_check,
            "GetModelInfo": servicer.get_model_info,
            "GetServerInfo": servicer.get_server_info,
            "GetLoads": servicer.get_loads,
        },
        streams={
            "Generate": servicer.generate,
            "GetTokenizer": servicer.get_tokenizer,
        },
        refused=_UNSUPPORTED,
    )
