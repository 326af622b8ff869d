"""Campaigns and their protocols as statements on a session; `db/store.py` holds the sessions."""

from sqlalchemy import RowMapping, select
from sqlalchemy.orm import Session

from archloom.db.engine import insert_missing
from archloom.db.records import Campaign, CampaignState, Protocol
from archloom.db.tables import CampaignRow, ProtocolRow
from archloom.errors import ConfigError, NotFoundError

COLUMNS = (
    CampaignRow.name,
    CampaignRow.config,
    CampaignRow.config_hash,
    CampaignRow.protocol_id.label("protocol"),
    CampaignRow.seed,
    CampaignRow.state,
    CampaignRow.created,
    CampaignRow.wall_seconds,
)


def create_campaign(session: Session, campaign: Campaign, *, protocol: Protocol) -> None:
    if campaign.protocol != protocol.id:
        raise ValueError(f"campaign {campaign.name!r} is under protocol {campaign.protocol}, was given {protocol.id}")
    insert_missing(session, ProtocolRow, [{"id": protocol.id, "json": protocol.to_json()}], unique=["id"])
    row = {
        "name": campaign.name,
        "config": campaign.config,
        "config_hash": campaign.config_hash,
        "protocol_id": campaign.protocol,
        "seed": campaign.seed,
        "state": campaign.state.value,
        "created": campaign.created,
        "wall_seconds": campaign.wall_seconds,
    }
    if not insert_missing(session, CampaignRow, [row], unique=["name"]):
        raise ConfigError(
            f"there is a campaign {campaign.name!r} already: `archloom resume {campaign.name}`, or choose another name"
        )


def find_campaign(session: Session, name: str | None) -> Campaign:
    """The campaign of that name; the one created last for None."""
    newest_first = select(*COLUMNS).order_by(CampaignRow.created.desc(), CampaignRow.id.desc()).limit(1)
    row = (
        session.execute(newest_first if name is None else newest_first.where(CampaignRow.name == name))
        .mappings()
        .first()
    )
    if row is None:
        raise _not_found(session, name)
    return _campaign(row)


def list_campaigns(session: Session) -> tuple[Campaign, ...]:
    """Oldest first."""
    rows = session.execute(select(*COLUMNS).order_by(CampaignRow.created, CampaignRow.id)).mappings()
    return tuple(map(_campaign, rows))


def find_campaign_id(session: Session, name: str) -> int:
    """The key under which the other tables know the campaign."""
    key = session.scalar(select(CampaignRow.id).where(CampaignRow.name == name))
    if key is None:
        raise _not_found(session, name)
    return key


def find_protocol(session: Session, protocol_id: str) -> Protocol:
    json = session.scalar(select(ProtocolRow.json).where(ProtocolRow.id == protocol_id))
    if json is None:
        known = ", ".join(session.scalars(select(ProtocolRow.id).limit(5))) or "none"
        raise NotFoundError(f"no protocol {protocol_id!r} in this ledger, which holds: {known}")
    return Protocol.from_json(json)


def _campaign(row: RowMapping) -> Campaign:
    return Campaign(**{**row, "state": CampaignState(row["state"])})


def _not_found(session: Session, name: str | None) -> NotFoundError:
    names = [campaign.name for campaign in list_campaigns(session)]
    if not names:
        return NotFoundError("the ledger holds no campaign yet: start one with `archloom run`")
    return NotFoundError(f"no campaign {name!r} in this ledger, which holds: {', '.join(names)}")
