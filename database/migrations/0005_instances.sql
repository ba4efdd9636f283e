-- The instances that share the database, each with the time of its last sign of life.
CREATE TABLE weir_instances (
	id   TEXT PRIMARY KEY,
	seen BIGINT NOT NULL
);
