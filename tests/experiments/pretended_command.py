"""The command line with one more experiment, of pretended jobs."""

from pathlib import Path

from pretended import plan, work

from stssad_fast.cli import experiment
from stssad_fast.cli.app import app


@experiment.app.command()
def pretended(
    out: experiment.Out,
    folder: Path,
    count: int,
    jobs: experiment.Jobs = None,
    ray: experiment.RayAddress = None,
    gpus_per_job: experiment.GpusPerJob = 0.0,
    cpus_per_job: experiment.CpusPerJob = 1,
) -> None:
    how = experiment.How(jobs, ray, gpus_per_job, cpus_per_job)
    experiment.run_plan(plan(folder, [None] * count, seconds=0.05), out, work, how)


if __name__ == "__main__":
    app()
