"""Makes a flow of ecood from a checkpoint that other people published.

python -m ecood import glow-pytorch FILE --hparams hparams.json --out flow.safetensors
python -m ecood import residual-flows FILE --out flow.safetensors
python -m ecood import normflows FILE --out flow.safetensors

No code in the file is executed, and PyTorch is not needed. Wherever a flow.safetensors is taken
(`python -m ecood fit --flow`), the new file is taken too. docs/published.md tells where checkpoints
are published, and how to go on from here.
"""

import argparse
import hashlib
import pathlib

from ecood import flows, models
from ecood.cli import clash
from ecood.errors import InputError
from ecood.flows import published
from ecood.words import number_of

__all__ = ["add_arguments", "run"]

FORMATS = ("glow-pytorch", "residual-flows", "normflows")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("format", choices=FORMATS, help="whose checkpoint it is")
    add("file", type=pathlib.Path, help="the checkpoint, a .pt or .pth file")
    add("--out", type=pathlib.Path, required=True, help="where the flow goes")
    add("--hparams", type=pathlib.Path, help="glow-pytorch: the hparams.json beside the checkpoint")
    add(
        "--image-shape",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="normflows: of a model whose bases are per channel (GlowBase)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converts."""
    for name, owner in (("hparams", "glow-pytorch"), ("image_shape", "normflows")):
        if getattr(arguments, name) is not None and arguments.format != owner:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option} is for {owner}, not for {arguments.format}; leave it out."
            )
    clash.check([arguments.out], [arguments.file, arguments.hparams])
    flow = _convert(arguments)
    with open(arguments.file, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    told = {"converted_from": arguments.format, "sha256_of_checkpoint": digest}
    flows.save(arguments.out, flow, told)
    shape = " x ".join(map(str, flow.image_shape))
    kind = type(flow.density).__name__
    parameters = number_of(models.size(flow.variables), "parameter")
    print(f"{arguments.out}: a {kind} of {shape} images, {parameters}")
    return 0


def _convert(arguments: argparse.Namespace) -> flows.Flow:
    if arguments.format == "residual-flows":
        return published.residual_flows(arguments.file)
    if arguments.format == "normflows":
        shape = arguments.image_shape
        return published.normflows(arguments.file, None if shape is None else tuple(shape))
    if arguments.hparams is None:
        raise InputError(
            "glow-pytorch needs --hparams, the hparams.json that was saved beside the checkpoint."
        )
    return published.glow_pytorch(arguments.file, arguments.hparams)
