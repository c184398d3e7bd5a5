"""The command line's verbs for the edge: run a bundle, try it on a simulated plant, arm it, read its audit log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controlkit.errors import ControlkitError

if TYPE_CHECKING:
    from deploy.bundle import Bundle
    from deploy.runtime.plant import Plant, PlantAddress
    from deploy.runtime.service import Runtime
    from deploy.runtime.site import Site

ModeName = Literal["off", "shadow", "advisory", "armed"]
Seed = Annotated[int, typer.Option(min=0, help="Every random number follows from it.")]
State = Annotated[Path, typer.Argument(help="State folder of the runtime (run --state).")]
TokenFile = Annotated[Path | None, typer.Option(help="File that holds the operator's token.", show_default=False)]
ChangeRecord = Annotated[str, typer.Option(help="Id of the change record under which it is armed.", show_default=False)]
MAX_TOKEN_BYTES = 1024
TRIAL_OPERATOR, TOKEN = "trial", "operator.token"


def register(app: typer.Typer) -> None:
    """Adds the verbs to the command line."""
    app.command(
        epilog="Example: controlkit run bundle --plant sim:refrigerator; or: controlkit run bundle --plant "
        "opc.tcp://127.0.0.1:4840/controlkit --site trial/site.yaml --public-key plant.pem.pub"
    )(run)
    app.command(name="serve-sim", epilog="Example: controlkit serve-sim refrigerator --folder trial")(serve_sim)
    app.command(
        epilog="Example: controlkit operate state --mode armed --token-file trial/operator.token --change-record MOC-17"
    )(operate)
    app.command(epilog="Example: controlkit audit state")(audit)
    app.command(epilog="Example: controlkit shadow state --bundle bundle --out shadow")(shadow)


def run(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    plant: Annotated[str, typer.Option(help="sim:TASK, or opc.tcp://HOST:PORT/PATH.", show_default=False)],
    mode: Annotated[
        ModeName | None,
        typer.Option(
            help="Wanted mode of the supervised runtime; it starts in shadow and climbs. Without it a simulated plant "
            "is driven directly, as fast as it goes, and a live one is shadowed.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for audit log and control socket; state/PLANT where not given.", show_default=False),
    ] = None,
    site: Annotated[
        Path | None, typer.Option(help="Site file: nodes, certificates, operators.", show_default=False)
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Key (PEM) that the bundle's signature must match.", show_default=False)
    ] = None,
    token_file: TokenFile = None,
    change_record: ChangeRecord = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the status page; the site file's where not given.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="For tests: no certificates; an unsigned bundle may be armed.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Periods; 2000 where a simulated plant is driven directly, else no end.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Run a bundle on a plant: under supervision, with audit log and status page, or directly on a simulated one."""
    from deploy.bundle import load_bundle
    from deploy.runtime.plant import plant_address

    address = plant_address(plant)
    if address.kind == "sim":
        from envs.tasks import get_task

        get_task(address.target)
    if address.kind == "sim" and mode is None:
        _drive(load_bundle(bundle, public_key), address.target, steps or 2000, seed)
        return
    runtime = _runtime(bundle, address, state, site, public_key, port, insecure, seed)
    with runtime:
        if mode not in (None, "shadow"):
            runtime.ask(str(mode).upper(), _token(token_file), change_record)  # type: ignore[arg-type]
        _supervise(runtime, address, steps)


def serve_sim(
    task: Annotated[str, typer.Argument(help="Name of a simulated task, such as refrigerator.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder for certificates, a site file and an operator's token for the client; made where missing.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 takes any free one.")] = 4840,
    seed: Seed = 0,
    insecure: Annotated[bool, typer.Option("--insecure", help="For tests: no encryption, anybody may write.")] = False,
) -> None:
    """Run a task as a real OPC UA server on this machine; its operator commands until a controller does."""
    from envs.opcua_server import SimulatedPlant

    if (folder is None) != insecure:
        raise ControlkitError(
            "give either --folder (secure) or --insecure (for tests)",
            where="controlkit serve-sim",
            cure="--folder trial makes the certificates that both sides need.",
        )
    with SimulatedPlant(task, folder, port=port, seed=seed, insecure=insecure) as plant:
        print(f"{plant.address}: '{task}', one period every {plant.spec.period_s:g} s; Ctrl-C ends it")
        if folder is None:
            print("warning: neither signed nor encrypted, and anybody on this machine may write: for tests only")
        else:
            site = _trial_site(folder, plant)
            keys = f"--site {site} --public-key KEY.pub"
            print(f"In another terminal: controlkit run BUNDLE --plant {plant.address} {keys}")
            print(f"To arm it: controlkit operate STATE --mode armed --token-file {folder / TOKEN} --change-record ID")
        sys.stdout.flush()
        try:
            plant.wait()
        except KeyboardInterrupt:
            done = plant.describe()
            print(
                f"{done.steps} periods, mean reward {done.reward_sum / max(done.steps, 1):.4f}, "
                f"{done.controlled_share:.1%} under a controller"
            )


def operate(
    state: State,
    mode: Annotated[ModeName | None, typer.Option(help="Wanted mode.", show_default=False)] = None,
    token_file: TokenFile = None,
    change_record: ChangeRecord = "",
    load: Annotated[Path | None, typer.Option(help="Bundle for the second slot.", show_default=False)] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Let the second slot take charge; again to roll back.")] = False,
    recalibrate: Annotated[bool, typer.Option("--recalibrate", help="Learn the healthy plant anew.")] = False,
    new_token: Annotated[
        str | None, typer.Option(help="Make a token for this operator; print it and its line of the site file.")
    ] = None,
) -> None:
    """Change what a running controller does: mode, bundle slots, recalibration. All but going down needs a token."""
    from deploy.runtime.control import Wish, ask
    from deploy.runtime.operators import new_token as make_token

    chosen = [mode is not None, load is not None, swap, recalibrate, new_token is not None]
    if sum(chosen) != 1:
        raise ControlkitError(
            "give one of --mode, --load, --swap, --recalibrate, --new-token", where="controlkit operate"
        )
    if new_token is not None:
        token, stored = make_token()
        print(f'token, for {new_token} alone: {token}\nsite file: operators: {{{new_token}: "{stored}"}}')
        return
    token = _token(token_file)
    if mode is not None:
        wish = Wish(action="mode", mode=mode.upper(), token=token, change_record=change_record)  # type: ignore[arg-type]
    elif load is not None:
        wish = Wish(action="load", bundle=str(load.absolute()), token=token)
    else:
        wish = Wish(action="swap" if swap else "recalibrate", token=token)
    print(ask(state, wish))


def audit(state: State) -> None:
    """Check the audit log's chain and say what is in it; exit code 1 where it is broken."""
    from collections import Counter
    from datetime import UTC, datetime

    from deploy.runtime.audit_reader import read_audit, verify_audit

    folder = state / "audit" if (state / "audit").is_dir() else state
    check = verify_audit(folder)
    print(f"{folder}: rows {check.first_seq} to {check.last_seq} in {check.segments} files")
    if check.problem:
        print(f"BROKEN: {check.problem}")
        raise typer.Exit(1)
    print(f"the chain holds; hash of the last row {check.last_hash}")
    kinds: Counter[str] = Counter()
    for row in read_audit(folder):
        kinds[row.kind] += 1
        if row.kind in ("start", "mode", "operator", "bundle", "calibration", "stop"):
            when = datetime.fromtimestamp(row.wall_ns / 1e9, UTC).isoformat(timespec="seconds")
            told = ", ".join(
                f"{key} {value}" for key, value in row.payload.items() if value and not isinstance(value, list | dict)
            )
            print(f"  {when} {row.kind}: {_printable(told)[:200]}")
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))


def shadow(
    state: State,
    bundle: Annotated[Path, typer.Option(help="Bundle folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for shadow.html and shadow.json.", show_default=False)],
) -> None:
    """Compare, from the audit log, what the policy would have done with what was done.

    Exit code: 0 READY TO ADVISE, 10 NOT YET, 11 NO; 1 for an error.
    """
    from deploy.shadow import EXIT_CODES, shadow_report

    folder = state / "audit" if (state / "audit").is_dir() else state
    report = shadow_report(folder, bundle, out)
    print(f"{report.verdict}\n" + "\n".join(f"  - {reason}" for reason in report.reasons))
    print(f"Report: {out / 'shadow.html'}")
    raise typer.Exit(EXIT_CODES[report.verdict])


def _drive(bundle: Bundle, name: str, steps: int, seed: int) -> None:
    from deploy.runtime.loop import run_simulation
    from deploy.runtime.session import ControllerSession
    from envs.tasks import get_task

    session = ControllerSession(bundle)
    record = run_simulation(session, get_task(name).make(), seed=seed, steps=steps)
    print(f"{len(record.actions)} steps, mean reward {record.rewards.mean():.4f} per period")
    print(f"limit violations: {record.limit_violations}")
    print(f"steps on the fallback alone: {record.fallback_share:.1%}")
    for flag, count in record.flags.items():
        if count:
            print(f"  {flag}: {count} steps")


def _runtime(
    bundle_path: Path,
    address: PlantAddress,
    state: Path | None,
    site_path: Path | None,
    public_key: Path | None,
    port: int | None,
    insecure: bool,
    seed: int,
) -> Runtime:
    from deploy.runtime.service import Runtime, verified_bundle
    from deploy.runtime.settings import Settings
    from deploy.runtime.site import Site

    bundle = verified_bundle(bundle_path, public_key)
    site = Site() if site_path is None else Site.load(site_path)
    site.require_tags(bundle.spec, str(site_path))
    return Runtime(
        bundle,
        _plant(bundle, address, site, insecure, seed),
        state if state is not None else Path("state") / bundle.spec.name,
        site,
        public_key=public_key,
        settings=Settings(require_trusted=not insecure),
        address=address.target,
        status_port=port,
    )


def _supervise(runtime: Runtime, address: PlantAddress, steps: int | None) -> None:
    spec = runtime.supervisor.spec
    print(f"'{spec.name}' on {address.target}, one period every {spec.period_s:g} s; Ctrl-C ends it")
    print(f"status page: {runtime.status.address}")
    print(f"state: {runtime.state}; to change the mode: controlkit operate {runtime.state} --mode ...")
    sys.stdout.flush()
    runtime.run(steps)
    counters = runtime.supervisor.counters
    told = ", ".join(f"{counters[name]} {name}" for name in ("cycles", "late", "faulty", "writes", "falls"))
    print(f"ended in {runtime.supervisor.modes.mode}: {told}")


def _plant(bundle: Bundle, address: PlantAddress, site: Site, insecure: bool, seed: int) -> Plant:
    if address.kind == "opc.tcp":
        from deploy.runtime.opcua import OpcUaPlant
        from deploy.runtime.opcua_security import Security

        if site.security is None and not insecure:
            raise ControlkitError(
                "the site file names no certificates",
                where="--site",
                cure="Add 'security' to it, or connect with --insecure for a test.",
            )
        plant = OpcUaPlant(
            bundle.spec,
            address.target,
            nodes=site.nodes,
            handshake=site.handshake,
            security=site.security if site.security is not None else Security.insecure_for_tests(),
            time=site.time,
        )
        if plant.warning:
            print(f"warning: {plant.warning}", file=sys.stderr)
        return plant
    import numpy as np

    from deploy.runtime.clock import SystemClock
    from deploy.runtime.simulated import SimulatedPlant
    from envs.tasks import get_task

    task = get_task(address.target)
    law = task.controller(task.behaviour, np.random.default_rng(seed + 1))
    law.reset(1)
    return SimulatedPlant(
        bundle.spec,
        task.make(),
        SystemClock(),
        lambda frame: law.act(np.asarray(frame)[None])[0],
        on_reset=lambda: law.reset(1),
        seed=seed,
    )


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ControlkitError("cannot be read", where=str(path), cure="Name the file that holds the token.") from None


def _trial_site(folder: Path, plant: Any) -> Path:
    """A site file for the client of a simulated plant, with an operator whose token lies beside it."""
    import os

    from controlkit.files import write_text
    from deploy.runtime.operators import new_token

    site, token_path = folder / "site.yaml", folder / TOKEN
    if site.exists():
        return site
    token, stored = new_token()
    with os.fdopen(os.open(token_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(token + "\n")
    paths = {
        "certificate": plant.client.certificate,
        "private_key": plant.client.private_key,
        "trusted_server_certificate": plant.server_certificate,
    }
    lines = [f"# The simulated plant '{plant.task.name}': certificates, and an operator for trials."]
    lines += ["security:", *(f"  {name}: {path.relative_to(folder)}" for name, path in paths.items())]
    lines += ["operators:", f'  {TRIAL_OPERATOR}: "{stored}"', ""]
    write_text(site, "\n".join(lines))
    return site


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)
