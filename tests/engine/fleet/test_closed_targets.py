"""A move to a device that has closed waits until it opens again."""

from mell_jax.engine.fleet.moves import Moves
from mell_jax.engine.fleet.profile import Profile
from mell_jax.scheduler.ids import DeviceGroupId, ModelId, MoveId, RequestId
from mell_jax.scheduler.placement import plan

A, B = DeviceGroupId(0), DeviceGroupId(1)
TOY = ModelId("toy")


def test_a_target_that_was_open_and_closed_is_waited_for() -> None:
    profile = Profile(
        bytes_per_s={(A, B): 1000.0, (B, A): 1000.0},
        prefill_tokens_per_s={(A, TOY): 10.0, (B, TOY): 10.0},
    )
    moves = Moves(profile, epoch_s=1.0, mode=None)
    moves.target_opens(B, TOY)
    moves.target_closes(B)
    moves.ask(
        plan.Move(
            move=MoveId(1),
            request=RequestId(1),
            source=A,
            target=B,
            pages=1,
            is_urgent=False,
        )
    )
    assert not moves.is_asked
    moves.target_opens(B, TOY)
    assert moves.is_asked
