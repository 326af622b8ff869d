"""One runner per campaign: who holds it, whether that process still lives, and taking over from one that does not.

A holder is gone when its process is (told at once on the same host, where a recycled process number is known by its
start time), or when it has not been heard of for `SILENCE`. The second rule also takes a campaign from a process that
was stopped and woke up: its next heartbeat is refused, and that is how it learns.
"""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.records import CampaignState
from archloom.db.tables import CampaignRow
from archloom.errors import EnvironmentProblem

SILENCE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of some host. `born` is "<pid namespace>:<start in clock ticks>", None where there is no /proc."""

    pid: int
    host: str
    born: str | None


def this_process() -> Process:
    return Process(pid=os.getpid(), host=socket.gethostname(), born=_born(os.getpid()))


def is_gone(process: Process) -> bool:
    """Whether `process` is known to be dead. False when that cannot be seen from here."""
    if process.host != socket.gethostname():
        return False
    here = _namespace()
    if process.born is None or here is None:
        return process.born is None and here is None and not _signalled(process.pid)
    if process.born.partition(":")[0] != here:
        return False  # a container with the host's name but process numbers of its own
    return _born(process.pid) != process.born


def acquire(session: Session, campaign: str, *, owner: str) -> None:
    key = find_campaign_id(session, campaign)
    held = session.execute(
        select(
            CampaignRow.owner_token,
            CampaignRow.owner_pid,
            CampaignRow.owner_host,
            CampaignRow.owner_process,
            CampaignRow.owner_since,
            CampaignRow.owner_heartbeat,
        )
        .where(CampaignRow.id == key)
        .with_for_update()
    ).one()
    now, process = datetime.now(UTC), this_process()
    if held.owner_token not in (None, owner):
        holder = Process(pid=held.owner_pid or 0, host=held.owner_host or "", born=held.owner_process)
        if held.owner_heartbeat is not None and now - held.owner_heartbeat < SILENCE and not is_gone(holder):
            raise EnvironmentProblem(
                f"campaign {campaign!r} is being run by process {holder.pid} on {holder.host} since "
                f"{held.owner_since:%Y-%m-%d %H:%M:%S} UTC: wait for it, or stop it with `archloom stop {campaign}`"
            )
    session.execute(
        update(CampaignRow)
        .where(CampaignRow.id == key)
        .values(
            state=CampaignState.RUNNING.value,
            owner_token=owner,
            owner_pid=process.pid,
            owner_host=process.host,
            owner_process=process.born,
            owner_since=held.owner_since if held.owner_token == owner else now,
            owner_heartbeat=now,
        )
    )


def heartbeat(session: Session, campaign: str, *, owner: str, wall_seconds: float) -> None:
    _write_as_owner(session, campaign, owner, wall_seconds=wall_seconds, owner_heartbeat=datetime.now(UTC))


def release(session: Session, campaign: str, *, owner: str, state: CampaignState, wall_seconds: float) -> None:
    nobody = dict.fromkeys(("token", "pid", "host", "process", "since", "heartbeat"))
    values: dict[str, object] = {f"owner_{name}": value for name, value in nobody.items()}
    _write_as_owner(session, campaign, owner, state=state.value, wall_seconds=wall_seconds, **values)


def has_released(session: Session, campaign: str, *, owner: str) -> bool | None:
    """Whether nobody holds the campaign any more; None if somebody does."""
    key = find_campaign_id(session, campaign)
    return session.scalar(select(CampaignRow.owner_token).where(CampaignRow.id == key)) is None or None


def _write_as_owner(session: Session, campaign: str, owner: str, **values: object) -> None:
    mine = (CampaignRow.name == campaign) & (CampaignRow.owner_token == owner)
    if session.execute(update(CampaignRow).where(mine).values(values).returning(CampaignRow.id)).first():
        return
    key = find_campaign_id(session, campaign)
    pid, host = session.execute(
        select(CampaignRow.owner_pid, CampaignRow.owner_host).where(CampaignRow.id == key)
    ).one()
    holder = "nobody" if pid is None else f"process {pid} on {host}"
    raise EnvironmentProblem(
        f"campaign {campaign!r} is no longer held by this run but by {holder}: it stops here; "
        f"what it finished is kept, and `archloom resume {campaign}` goes on"
    )


def _namespace() -> str | None:
    """The process-number namespace of this process; None without /proc."""
    try:
        return os.readlink("/proc/self/ns/pid")[len("pid:[") : -1]
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """None for a process that does not run: a zombie has ended even if nobody has asked how."""
    try:
        # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{_namespace()}:{fields[18]}"


def _signalled(pid: int) -> bool:
    """Whether signal 0, which does nothing, finds the process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
