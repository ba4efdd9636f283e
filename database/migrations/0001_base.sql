-- What instances share besides their work: secrets that whoever asks first makes, and
-- the live configuration with its history.
CREATE TABLE weir_secrets (
	name    TEXT PRIMARY KEY,
	secret  BYTEA NOT NULL,
	created BIGINT NOT NULL
);

CREATE TABLE weir_overrides (
	kind       TEXT NOT NULL,
	name       TEXT NOT NULL,
	doc        BYTEA NOT NULL,
	changed    BIGINT NOT NULL,
	changed_by TEXT NOT NULL,
	PRIMARY KEY (kind, name)
);

-- One row. Whoever changes an override counts it up in the same transaction, so that
-- the others find out with one look whether anything is new.
CREATE TABLE weir_overrides_version (
	id      BIGINT PRIMARY KEY,
	version BIGINT NOT NULL
);
INSERT INTO weir_overrides_version (id, version) VALUES (1, 0);

-- doc_before and doc_after are NULL where there was, or is, no override.
CREATE TABLE weir_overrides_audit (
	version    BIGINT PRIMARY KEY,
	kind       TEXT NOT NULL,
	name       TEXT NOT NULL,
	doc_before BYTEA,
	doc_after  BYTEA,
	changed    BIGINT NOT NULL,
	changed_by TEXT NOT NULL
);
