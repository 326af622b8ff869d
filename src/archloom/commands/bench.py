"""`archloom tasks` and `archloom bench`: what candidates are measured by, and whether it measures anything."""

from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from archloom.config import ProtocolSection
    from archloom.proxies import Run

SuiteArgument = Annotated[str, typer.Argument(metavar="[SUITE]", help="A suite, see `archloom tasks`.")]


def group() -> None:
    """Measure the measuring."""


def tasks(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the kinds of proxy tasks with their dials, and the suites made of them."""
    from archloom import display, task_display
    from archloom.evaluator.suites import SUITES
    from archloom.evaluator.task_table import KINDS

    if as_json:
        kinds = {name: {**display.fields(kind), "pattern": kind.pattern.name} for name, kind in KINDS.items()}
        display.json_({"kinds": kinds, "suites": {name: display.fields(suite) for name, suite in SUITES.items()}})
        return
    display.out(task_display.kinds(KINDS))
    display.out(task_display.suites(SUITES.values()))


def proxies(
    suite: SuiteArgument = "standard",
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="A system of the panel or the zoo.  [default: the panel]", show_default=False),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task of the suite.  [default: all]", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Seeds of every system.")] = 3,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Worker processes; 0 is one for every core.")] = 0,
    record: Annotated[
        str, typer.Option("--record", help="Where runs are kept; an interrupted measurement goes on from it.")
    ] = "proxies.jsonl",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train known systems on a suite: do its tasks tell mixers apart, and as was published?"""
    from pathlib import Path

    from archloom import display, task_display
    from archloom.evaluator.executors import make_executor
    from archloom.evaluator.panel import NAMES
    from archloom.protocol import section_protocol
    from archloom.proxies import claim_reports, measure, task_reports

    protocol = section_protocol(_first_rung(suite, task or []), baselines=())
    systems = tuple(system or NAMES)
    _check_systems(systems, depth=protocol.depth)

    def progress(run: "Run", left: int) -> None:
        said = run.failure or f"{run.score:.3f} in {run.seconds:.1f} s"
        display.note(f"{run.task:20s} {run.system:28s} seed {run.seed}: {said}; {left} left")

    with make_executor("process", workers=workers) as executor:
        runs = measure(
            protocol, systems=systems, seeds=seeds, executor=executor, record=Path(record), progress=progress
        )
    reports = task_reports(runs)
    claims = claim_reports(reports, protocol)
    if as_json:
        display.json_({"protocol": protocol.id, "suite": protocol.suite, "tasks": reports, "claims": claims})
        return
    display.out(task_display.scores(reports, systems))
    display.out(task_display.signals(reports))
    display.out(task_display.claims(claims))


def _first_rung(suite: str, tasks: list[str]) -> "ProtocolSection":
    """The suite's section with the stages of all rungs in one, each task once, at the steps of its lowest rung."""
    from archloom.config import ProtocolSection
    from archloom.errors import ConfigError
    from archloom.evaluator.dials import alike
    from archloom.evaluator.suites import suite_named

    try:
        named = suite_named(suite)
    except ConfigError as problem:
        raise ConfigError(f"the suite {problem}\n  → archloom tasks lists them") from None
    section = named.section()
    steps: dict[str, int] = {}
    for rung in section["rungs"]:
        for stage in rung["stages"]:
            steps.setdefault(stage["task"], stage["steps"])
    for wanted in tasks:
        if wanted not in steps:
            raise ConfigError(f"suite {named.title} has no task {wanted!r}; {alike(wanted, steps)}")
    stages = [{"task": each, "steps": steps[each]} for each in tasks or steps]
    kept = [each for each in section["tasks"] if each["name"] in {stage["task"] for stage in stages}]
    given = {**section, "suite": suite, "tasks": kept, "rungs": [{"stages": stages}]}
    return ProtocolSection.model_validate(given)


def _check_systems(names: tuple[str, ...], *, depth: int) -> None:
    from archloom.errors import NotFoundError
    from archloom.evaluator.dials import alike
    from archloom.evaluator.panel import NAMES, system
    from archloom.search_space import zoo

    for name in names:
        if name not in (*NAMES, *zoo.names()):
            raise NotFoundError(f"neither the panel nor the zoo has {name!r}; {alike(name, (*NAMES, *zoo.names()))}")
        system(name, depth=depth)
