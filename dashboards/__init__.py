"""Pages for people: read-only, made of records, without torch and without scripts."""
