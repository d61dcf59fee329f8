"""Searches how to prune and quantize a network for a ReRAM crossbar accelerator.

    apq-jax search --config=lenet_mnist [--workdir=runs/a]
    apq-jax search --model=net.onnx --data=data.npz --accelerator=my.toml

`python -m apq_jax.search` is the same command.

Trains the network (once; the weights are cached), searches a keep ratio and bitwidths for every
layer, fine-tunes the most promising policies, and writes the compressed network, every evaluation
and a report to the work folder: a new one, to which runs/latest links, or the one that --workdir
names. A folder that holds a finished run, or files that no run wrote, is refused; --overwrite
replaces the run's files in it, and no others.

--config is a Python file that returns the fields of apq_jax/config.py, or the name of one in
the package: lenet_mnist, vgg8_fashion, resnet20_cifar, onnx. --model, --data and --accelerator
are short for --config.model.path, --config.data.path and --config.accelerator; with --model the
configuration is onnx if no other is named. Every field can be set on the command line:

    --config.search.episodes=100            evaluations of each seed
    --config.search.max_accuracy_drop=1.0   percentage points below the float network
    --config.search.tuned=0                 policies fine-tuned at most; the default is 5
    --config.finetune.steps=2000            steps for each of them; docs/finetune.md
    --config.search.goal=accuracy           the best accuracy within limits; or cost (the least
                                            cost, the default), or front (all trade-offs)
    --config.limits.slots=300               the largest value; also crossbars, area_mm2, ...
    --config.search.strategy=joint          apq, joint, or a baseline: random, uniform,
                                            lamp, greedy, genetic, cma_es
    --config.scheme=pim_prune               how weights are pruned and packed: column_vector
                                            (default), or a baseline's (docs/cost_model.md)
    --config.objective.energy_nj=0.5        weight of a metric; also slots, crossbars, ...
    --config.data.path=my.npz               your images and labels (docs/data.md); also a folder
                                            of IDX files, such as MNIST's, or CIFAR-10's folder
    --config.model.path=net.onnx            your network, which is not trained; with
                                            configs/onnx.py (docs/own_model.md)
    --config.accelerator=my.toml            isaac_ou, isaac, sre, puma, or your own: see
                                            python -m apq_jax.hardware
    --config.seed=1
    --config.search.seeds=8                 eight searches in one program: seeds 1 to 8

A search that was stopped leaves checkpoint.safetensors in its work folder. The same command goes on
from it with --resume, to the same result as if never stopped; with --noresume it begins anew.

Ctrl-C ends a search and reports its result so far. SIGTERM saves the search and exits at once.

Exit status: 0 done, or saved at SIGTERM; 1 SIGTERM before anything was saved; 2 input that cannot
be used; 3 no policy meets the limits (the nearest is reported); 4 the mapping to crossbars does not
compute the network; 130 interrupted by Ctrl-C (the evaluations so far are written).
"""

import pathlib
import signal
import sys

from rich.console import RenderableType

from apq_jax.run.flags import is_switch, parse
from apq_jax.system.command_line import join_command
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.process import read_help, report_stop, require_docstrings, run_command
from apq_jax.system.signals import Terminated, raise_signals


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv for flag in ("--help", "-h", "-help")):
        print(read_help(__file__))
        return OK
    try:
        config, target = parse(argv)
        # The command that repeats the run from its beginning.
        flags = [flag for flag in argv if not is_switch(flag)]
        command = join_command(["python", "-m", "apq_jax.search", *flags])
        require_docstrings()
        # Imported only now because it loads for seconds, and a wrong flag should not wait.
        from apq_jax.run.job import run

        with raise_signals(signal.SIGINT, signal.SIGTERM):
            return run(config, target.workdir, command, report, target.resume, target.overwrite)
    except InputError as error:
        print(f"apq_jax.search: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, Terminated) as stop:
        return report_stop(stop, "apq_jax.search", command)


def report(workdir: pathlib.Path) -> RenderableType:
    """Writes the report of the finished run in a folder; returns its summary for the terminal."""
    from apq_jax.report.make import write_report  # loads matplotlib
    from apq_jax.report.summary import build_summary
    from apq_jax.run.read import read_result

    write_report(workdir)
    return build_summary(read_result(workdir / "result.json"))


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.search", main, sys.argv[1:]))
