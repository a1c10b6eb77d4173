"""After a server's process was replaced: reaching the new one."""

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc


def wait_replaced(stub: pb_grpc.VllmEngineStub) -> None:
    """Until a call is answered; the first ones may still go to the dead connection."""
    for _ in range(20):
        try:
            stub.HealthCheck(pb.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        else:
            return
    raise AssertionError("nobody answers")
