"""`archloom grade`: a language model's opinion of the stories that a candidate tells."""

from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.candidates import IdArgument
from archloom.commands.options import CampaignOption, DebugOption, JsonOption, StoreOption, opened

if TYPE_CHECKING:
    from archloom.grading import Report


def grade(
    id_: IdArgument,
    stories: Annotated[int, typer.Option("--stories", min=1, max=1000, help="Stories to grade; a call each.")] = 8,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Which of the campaign's models grades.  [default: the first]", show_default=False
        ),
    ] = None,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Have a language model grade the stories that a candidate tells.

    The candidate is trained again on the stories of its campaign. The grades are an opinion, kept as a note: no score,
    ranking or proposer reads them. The exit code is 1 if a story has no grade."""
    from archloom import display, grading

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        candidate = ledger.candidate(id_, campaign=name)
        report = grading.grade(ledger, name, candidate, stories=stories, model=model, progress=display.note)
    if as_json:
        told = {**display.fields(report), "grading": report.protocol.id, "means": report.means, "whole": report.whole}
        display.json_(told)
    else:
        _tell(report)
    if not report.whole:
        display.note("error: a story without a grade: the means are over the others, and are not kept")
        raise typer.Exit(1)


def _tell(report: "Report") -> None:
    from archloom import display

    graded = [story for story in report.stories if story.grade is not None]
    for number, story in enumerate(report.stories, start=1):
        display.line(f"{number}. {story.beginning} *** {story.continuation}")
        if story.grade is None:
            display.line(f"   no grade: {story.problem}\n")
            continue
        told = story.grade
        age = f"; age: {told.age}" if told.age else ""
        display.line(
            f"   grammar {told.grammar:g}, creativity {told.creativity:g}, consistency {told.consistency:g}{age}\n"
        )
    rows = [
        (aspect, display.number(each.mean, digits=2), display.number(each.deviation, digits=2))
        for aspect, each in report.means.items()
    ]
    display.out(display.table((f"over {len(graded)} stories", "mean", "deviation"), rows, right=("mean", "deviation")))
    by = report.protocol
    display.out(display.pairs({"grading protocol": by.id, **display.fields(by)}))
    display.line("an opinion, and no part of any score; grades of other grading protocols are not comparable")
