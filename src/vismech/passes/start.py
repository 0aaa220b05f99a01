"""Start a pass; Lightning is loaded only where something is left to compute."""

from vismech.passes.loop import ImageLoop


def run_loop(loop: ImageLoop) -> None:
    """Run ``loop`` over its images on the devices of its runtime.

    Raises:
        UserError: also when it was raised in another process.
    """
    if len(loop.done) == len(loop.indices):  # an earlier try was killed between its last batch and its commit
        return
    from vismech.passes.runner import run  # loads Lightning

    run(loop)
