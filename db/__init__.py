"""The ledger: frozen records at the boundary, SQLAlchemy tables behind it."""
