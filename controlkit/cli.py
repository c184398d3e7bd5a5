"""The command line: the only place that composes the rooms. Heavy packages are imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from controlkit.edge_commands import register as register_edge
from controlkit.errors import ControlkitError
from controlkit.fleet_commands import register as register_fleet
from controlkit.scale_commands import register as register_scale

app = typer.Typer(
    name="controlkit",
    help="From a plant log to a controller that is evaluated offline and runs safely at the edge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEBUG = "--debug"
INTERRUPTED = 130

Data = Annotated[Path, typer.Option(help="Data set, as 'ingest' wrote it.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Every random number follows from it.")]
Track = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help="Record the run in MLflow, too: 'local' (mlflow.db beside the run folder) or a store's address.",
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.", is_eager=True)] = False,
) -> None:
    del debug  # read from the arguments by `main`, so that it may stand after the command, too
    if version:
        import controlkit

        print(controlkit.__version__)
        raise typer.Exit


@app.command(epilog="Example: controlkit collect refrigerator --out log.csv --episodes 10")
def collect(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="Name of a simulated task, such as refrigerator, or of a set: neorl/industrial-low.")
    ],
    out: Annotated[Path, typer.Option(help="File to write; csv, parquet or npz by its suffix.", show_default=False)],
    episodes: Annotated[int, typer.Option(min=1)] = 10,
    seed: Seed = 0,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a published data set instead, such as neorl/halfcheetah-medium.")
    ] = False,
) -> None:
    """Write a log of a task's behaviour policy, as a plant's historian would export it."""
    from controlkit.progress import progress_bar

    if download:
        for option in ("episodes", "seed"):
            source = context.get_parameter_source(option)
            if source is not None and source.name == "COMMANDLINE":
                raise ControlkitError(
                    f"--{option} does not go with --download: a published data set is what it is",
                    where="controlkit collect",
                    cure="Name the set with its number of episodes, such as neorl/halfcheetah-medium-100.",
                )
        _download(task, out)
        return
    from envs.collect import collect as collect_log
    from envs.neorl.behaviour.policy import behaviour_of

    name, controller = behaviour_of(task) if "/" in task else (task, None)
    with progress_bar() as progress:
        log = collect_log(name, out, episodes=episodes, seed=seed, controller=controller, progress=progress)
    print(f"{log.path}: {log.samples} samples in {log.episodes} episodes, {log.rows} rows")


@app.command(
    epilog="Example: controlkit ingest --check log.csv --out plant.yaml; then: controlkit ingest plant.yaml log.csv "
    "--out data"
)
def ingest(
    plant: Annotated[
        str,
        typer.Argument(help="Plant description (YAML), or the name of a shipped one; with --check it may be absent."),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Logs, long or wide: CSV, Parquet, Arrow, folders, patterns in quotes, sqlite:///FILE?table=T, "
            "postgresql://USER@HOST/DB?table=T. Or flat npz, D4RL's hdf5, minari:NAME."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the data set.", show_default=False)] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only report on the data's quality. Without a plant file: look at the log, and propose one at --out.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work on Ray, if more than one.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster whose machines share the work; with one --workers may be left out.")
    ] = None,
) -> None:
    """Turn a plant log into a data set and a data-quality report."""
    from controlkit.configs import find_config
    from controlkit.ingest import ingest as ingest_log
    from controlkit.ingest.sources.sql_address import has_scheme, is_address, redacted
    from controlkit.progress import progress_bar
    from controlkit.spec import PlantSpec

    if check and not _is_plant(plant):
        _propose([plant, *(sources or [])], out)
        return
    if (out is None) != check:
        raise ControlkitError("give either --out FOLDER or --check", where="controlkit ingest")
    if (is_address(plant) or has_scheme(plant)) and not Path(plant).exists():
        raise ControlkitError("an address is no plant file", where=redacted(plant), cure="Name the plant file first.")
    spec = PlantSpec.load(find_config("plants", plant))
    with _hands(workers, address) as hands, progress_bar() as progress:
        result = ingest_log(spec, sources or [], out, progress=progress, hands=hands)
    print(result.quality.to_text())
    if out is not None:
        print(f"\n{out}: {result.quality.transitions} usable steps; see {out / 'quality.html'}")


@app.command(epilog="Example: controlkit train runs/refrigerator.yaml --data data --out run --set seed=1")
def train(
    run: Annotated[Path, typer.Argument(help="Run configuration (YAML), or the name of a shipped one.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder.", show_default=False)],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one field: section.field=value.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Change what this method changes, such as mopo or td3_bc; see docs/methods.md.")
    ] = None,
    world: Annotated[
        Path | None,
        typer.Option(
            help="A trained run whose world model and dynamics reward are taken over; only a policy is learned."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a folder that holds a run.")] = False,
    track: Track = None,
) -> None:
    """Train a controller from a data set with MOREC; Ctrl-C is safe, --resume goes on."""
    from controlkit.artifacts import RunFolder
    from controlkit.baselines.settings import as_overrides
    from controlkit.config import RunConfig
    from controlkit.configs import find_config
    from controlkit.morec.train import require_resumable
    from controlkit.morec.train import train as train_run
    from controlkit.progress import progress_bar
    from controlkit.tracking import open_tracker, tracked

    changes = as_overrides(method) if method is not None else []
    config = RunConfig.load(find_config("runs", run), [*changes, *(set_ or ())])
    dataset, record = _dataset(data)
    source = RunFolder.open(world) if world is not None else None
    tracker = open_tracker(track, out) if track else None
    if resume:
        folder = RunFolder.open(out)
        require_resumable(folder)
        folder.require_data(record, str(data))
        folder.require_config(config)
    else:
        folder = RunFolder.create(out, config, dataset, record, replace=overwrite)
    with progress_bar() as progress, tracked(tracker, out, progress, fresh=not resume):
        train_run(folder, dataset, progress, source)
    print(f"{out}: trained; next: controlkit evaluate {out} --data {data}")


@app.command(epilog="Example: controlkit evaluate run pid.yaml --data data")
def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, ONNX files, PIDs in YAML, Python functions (module:function); one report compares them."
        ),
    ],
    data: Data,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rollouts and bootstrap draws.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the report; the first run folder where not given.", show_default=False),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="Discount; the runs' own where not given.", min=0.0, max=0.99, show_default=False),
    ] = None,
    regime: Annotated[
        str | None,
        typer.Option(help="Tag that tells operating regimes; looked for where not given.", show_default=False),
    ] = None,
    seed: Seed = 0,
    track: Track = None,
) -> None:
    """Write the offline evaluation report: may this policy go on the plant?

    Exit code: 0 GO TO SHADOW, 10 INCONCLUSIVE, 11 NO-GO, 12 NO VERDICT; 1 for an error.
    """
    import torch

    from controlkit.evaluation import EXIT_CODES, write_report
    from controlkit.evaluation import evaluate as evaluate_policies
    from controlkit.evaluation.candidates import find_candidates
    from controlkit.progress import progress_bar
    from controlkit.tracking import open_tracker, record_runs

    dataset, record = _dataset(data)
    candidates = find_candidates(policies, dataset.spec)
    runs = [candidate.run for candidate in candidates if candidate.run is not None]
    for run in runs:
        run.require_data(record, str(data))
    folder = out if out is not None else runs[0].path if runs else None
    if folder is None:
        raise ControlkitError(
            "no run folder is among the policies, so there is no place for the report",
            where="controlkit evaluate",
            cure="Say where it goes: --out FOLDER.",
        )
    tracker = open_tracker(track, runs[0].path) if track and runs else None
    if runs:
        torch.set_num_threads(runs[0].config.threads)
    with progress_bar() as progress:
        report = evaluate_policies(
            candidates, dataset, quick=quick, progress=progress, seed=seed, gamma=gamma, regime=regime
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_report(report, folder)
        record_runs(tracker, [run.path for run in runs], progress, report=folder)
    print(f"{report.verdict}\n" + "\n".join(f"  - {reason}" for reason in report.reasons))
    print(f"Report: {folder / 'report.html'}")
    raise typer.Exit(EXIT_CODES[report.verdict])


@app.command(epilog="Example: controlkit export run --out bundle --override 'trial on the simulator'")
def export(
    run: Annotated[Path, typer.Argument(help="Run folder, trained and evaluated.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.", show_default=False)],
    key: Annotated[Path | None, typer.Option(help="Ed25519 private key (PEM) to sign with.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make a new key pair, FILE and FILE.pub, and sign with it.")
    ] = None,
    override: Annotated[str | None, typer.Option(help="Why to export in spite of the verdict; is stored.")] = None,
    track: Track = None,
) -> None:
    """Export the controller with its safety wrapper as ONNX; refuses on any failed gate."""
    from controlkit.artifacts import RunFolder
    from controlkit.progress import progress_bar
    from controlkit.tracking import open_tracker, record_runs
    from deploy.bundle import new_key as make_key
    from deploy.export.exporter import export_bundle

    if key is not None and new_key is not None:
        raise ControlkitError("give either --key or --new-key", where="controlkit export")
    folder = RunFolder.open(run)
    tracker = open_tracker(track, run) if track else None
    if new_key is not None:
        make_key(new_key)
        key = new_key
    with progress_bar() as progress:
        result = export_bundle(folder, out, key=key, override=override, progress=progress)
        record_runs(tracker, [run], progress, bundle=out)
    print(f"{out}: parity with torch within {result.parity_max_diff:.1e} of the span; verdict {result.verdict}")


@app.command(epilog="Example: controlkit verify bundle --public-key plant.pem.pub")
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    public_key: Annotated[Path | None, typer.Option(help="Key (PEM) that the signature must match.")] = None,
) -> None:
    """Check a bundle: signature, hashes, graph and golden vectors."""
    from deploy.bundle import verify_bundle

    checks = verify_bundle(bundle, public_key=public_key)
    for check in checks:
        print(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


register_edge(app)
register_scale(app)
register_fleet(app)


@app.command(epilog="Example: controlkit benchmark refrigerator --out docs/results/refrigerator --seeds 3")
def benchmark(
    suite: Annotated[
        str,
        typer.Argument(
            help="Name of the suite: detection, draft, filter, industrial, neorl, neorl2, ope, refrigerator, runtime, "
            "scaling, speed."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and tables.", show_default=False)],
    tasks: Annotated[str, typer.Option(help="Which tasks, with commas; all where none is named.")] = "",
    methods: Annotated[str, typer.Option(help="Which methods, with commas.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Training runs per setting.")] = 3,
) -> None:
    """Rerun the figures that the documentation cites."""
    from controlkit.benchmarks import run_suite
    from controlkit.progress import progress_bar

    chosen = {"tasks": tasks.split(",") if tasks else (), "methods": methods.split(",") if methods else ()}
    with progress_bar() as progress:
        print(run_suite(suite, out, seeds, progress, **chosen))


@app.command(epilog="Example: controlkit study ablation --seeds 3 --out docs/results/studies/ablation")
def study(
    name: Annotated[str, typer.Argument(help="Name of the study: ablation, cost, history, ood, sensitivity.")],
    out: Annotated[Path, typer.Option(help="Folder for results, table and plots.", show_default=False)],
    seeds: Annotated[int, typer.Option(min=1, help="Logs, or training runs per setting.")] = 3,
) -> None:
    """Rerun an analysis of the method: CSV, JSON, a table and plots; an interrupted one goes on where it was."""
    from controlkit.progress import progress_bar
    from controlkit.studies import run_study

    with progress_bar() as progress:
        print(run_study(name, out, seeds, progress))


@app.command(name="export-minari", epilog="Example: controlkit export-minari data --name refrigerator/log-v0")
def export_minari(
    data: Annotated[Path, typer.Argument(help="Data set, as 'ingest' wrote it.")],
    name: Annotated[str, typer.Option(help="Name of the new Minari data set, with a version.", show_default=False)],
) -> None:
    """Write a data set as a local Minari data set, for other libraries of offline reinforcement learning."""
    from controlkit.ingest.minari_data import write_minari

    dataset, _ = _dataset(data)
    episodes = write_minari(dataset, name)
    print(f"minari:{name}: {len(dataset.transitions)} steps in {episodes} episodes")


@app.command(epilog="Example: controlkit doctor")
def doctor() -> None:
    """Say what is installed, what is missing and what for; exit code 1 where a package's name means another one."""
    from controlkit.doctor import examine

    findings = examine()
    print("\n".join(str(finding) for finding in findings))
    if any(finding.state == "clash" for finding in findings):
        raise typer.Exit(1)


def _hands(workers: int, address: str | None) -> AbstractContextManager[Any]:
    """The workers of an ingest; None where one process does all."""
    if workers == 1 and address is None:
        return nullcontext()
    from controlkit.ingest.on_ray import hands_on_ray

    return hands_on_ray(workers if workers > 1 else None, address)


def _download(name: str, out: Path) -> None:
    from controlkit.progress import progress_bar
    from envs.download import download
    from envs.neorl.data_files import get_released
    from envs.neorl.original import clash_note

    file = get_released(name)
    if out.suffix != ".npz":
        raise ControlkitError("a published data set is an npz file", where=str(out), cure="End the name in .npz.")
    with progress_bar() as progress:
        done = download(file.url, out, md5=file.md5, progress=progress, note=clash_note())
    came = f"{done.fetched} bytes came over" if done.fetched else "it was there"
    print(f"{out}: {file.name}, {done.size} bytes, md5 as published; {came}")


def _is_plant(text: str) -> bool:
    """Whether an argument means a plant file, of the user's or a shipped one, and not a log."""
    from controlkit.configs import list_configs

    return text.lower().endswith((".yaml", ".yml")) or (text in list_configs("plants") and not Path(text).exists())


def _propose(sources: list[str], out: Path | None) -> None:
    """Says what a log without a plant file holds, and proposes one."""
    from controlkit.files import write_text
    from controlkit.ingest.draft import draft_plant
    from controlkit.ingest.flat_draft import describe_flat, plant_name
    from controlkit.ingest.flat_sources import is_flat
    from controlkit.ingest.sources.sql_address import redacted

    if out is not None and out.suffix.lower() not in (".yaml", ".yml"):
        raise ControlkitError(
            "without a plant file, --check proposes one", where=f"--out {out}", cure="End its name in .yaml."
        )
    if out is not None and out.exists():
        raise ControlkitError(
            "is there already, and may hold somebody's work", where=f"--out {out}", cure="Choose another name."
        )
    if any(is_flat(Path(source)) for source in sources):
        told, text = describe_flat([Path(source) for source in sources])
    else:
        draft = draft_plant(sources, name=plant_name(Path(sources[0].split("?")[0]).stem))
        told, text = "\n".join(draft.notes), draft.yaml
    print(told)
    if out is None:
        print(f"\n{text}")
        return
    write_text(out, text)
    shown = " ".join(redacted(source) for source in sources)
    print(f"\n{out}: look through it, then: controlkit ingest {out} {shown} --out data")


def _dataset(path: Path) -> tuple[Any, dict[str, Any]]:
    from controlkit.dataset import RECORD, TransitionDataset
    from controlkit.files import read_json

    return TransitionDataset.load(path), read_json(path / RECORD)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line. Errors that a user can mend are one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in arguments
    try:
        app([argument for argument in arguments if argument != DEBUG], prog_name="controlkit")
    except ControlkitError as problem:
        if debug:
            raise
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        print("interrupted; nothing is half-written, 'train --resume' goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as problem:
        if debug:
            raise
        what = f"{type(problem).__name__}: {problem}".splitlines()[0]
        print(f"error: an unexpected problem ({what}). Please report it with the output of --debug.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
