"""Start a pass; Lightning is loaded only where something is left to compute."""

from vismech.errors import Unfinished
from vismech.passes.loop import ImageLoop
from vismech.passes.shards import fill, shard_of


def run_loop(loop: ImageLoop) -> None:
    """Run ``loop`` over its images on the devices of its runtime.

    Raises:
        UserError: also when it was raised in another process.
        Unfinished: other runs fill the same rows; this one has nothing left to do for them.
    """
    if loop.site.shared:
        shard = shard_of(loop.site.runtime)
        assert shard is not None
        fill(loop, shard, _run)
        raise Unfinished
    if len(loop.done) < len(loop.indices):  # or an earlier try was killed between its last batch and its commit
        _run(loop)


def _run(loop: ImageLoop) -> None:
    from vismech.passes.runner import run  # loads Lightning

    run(loop)
