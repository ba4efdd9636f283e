-- The keys that "weir key" makes. digest is the SHA-256 of the key, which itself is
-- nowhere. version is that of weir_keys_version when the row was last changed, by
-- anything but its use.
CREATE TABLE weir_keys (
	id TEXT NOT NULL PRIMARY KEY,
	digest BYTEA NOT NULL UNIQUE,
	caller TEXT NOT NULL,
	plan TEXT NOT NULL,
	created BIGINT NOT NULL,
	created_by TEXT NOT NULL,
	expires BIGINT NOT NULL,
	revoked BIGINT NOT NULL,
	revoked_by TEXT NOT NULL,
	last_used BIGINT NOT NULL,
	replaced_by TEXT NOT NULL,
	version BIGINT NOT NULL UNIQUE
);

CREATE INDEX weir_keys_by_caller ON weir_keys (caller, created);

CREATE INDEX weir_keys_by_created ON weir_keys (created);

-- One row, which every change of a key raises first: so changes happen one after the
-- other, and who has seen a version has seen all before it.
CREATE TABLE weir_keys_version (
	version BIGINT NOT NULL
);

INSERT INTO weir_keys_version (version) VALUES (0);
