-- Requests that run later. What is large is in tables of its own, so that looking for
-- a job touches small rows.
--
-- stage is what the indexes go by: 0 running, 1 waits until not_before, 2 may be
-- claimed, 3 waits to be cancelled, 4 ended, 5 ended and its request and result deleted.
CREATE TABLE weir_jobs (
	id               TEXT PRIMARY KEY,
	caller           TEXT NOT NULL,
	plan             TEXT NOT NULL,
	route            TEXT NOT NULL,
	state            TEXT NOT NULL,
	stage            BIGINT NOT NULL,
	attempt          BIGINT NOT NULL,
	max_attempts     BIGINT NOT NULL,
	not_before       BIGINT NOT NULL,
	fence            BIGINT NOT NULL,
	finished_fence   BIGINT NOT NULL, -- under which an attempt was last ended by who ran it
	owner            TEXT NOT NULL,
	lease_until      BIGINT NOT NULL,
	cancel_requested BIGINT NOT NULL,
	progress_bytes   BIGINT NOT NULL,
	progress_events  BIGINT NOT NULL,
	failure_status   BIGINT NOT NULL, -- 0: none
	failure_detail   TEXT NOT NULL,
	created          BIGINT NOT NULL,
	started          BIGINT NOT NULL,
	finished         BIGINT NOT NULL,
	expires          BIGINT NOT NULL,
	webhook          TEXT NOT NULL,
	webhook_due      BIGINT NOT NULL, -- 0: nobody is to be told
	webhook_attempt  BIGINT NOT NULL,
	output_seq       BIGINT NOT NULL, -- of the last chunk
	output_bytes     BIGINT NOT NULL, -- above the limit once a chunk was not kept
	request_bytes    BIGINT NOT NULL,
	idempotency_key  TEXT NOT NULL,
	key_hash         BYTEA, -- of the caller and the key: a key may be too long for an index
	request_hash     BYTEA NOT NULL,
	account          BYTEA NOT NULL
);
CREATE UNIQUE INDEX weir_jobs_key ON weir_jobs (key_hash);
CREATE INDEX weir_jobs_ready ON weir_jobs (route, caller, id, not_before) WHERE stage = 2;
CREATE INDEX weir_jobs_later ON weir_jobs (route, not_before, caller, id) WHERE stage = 1;
CREATE INDEX weir_jobs_running ON weir_jobs (lease_until, route) WHERE stage = 0;
CREATE INDEX weir_jobs_expires ON weir_jobs (stage, expires);
CREATE INDEX weir_jobs_caller ON weir_jobs (caller, id);
CREATE INDEX weir_jobs_state ON weir_jobs (state, id);
CREATE INDEX weir_jobs_webhook ON weir_jobs (caller, webhook_due, id) WHERE webhook_due > 0;

-- head holds what is not the body, as JSON whose strings are base64: header fields are
-- bytes, not text.
CREATE TABLE weir_job_requests (
	job  TEXT PRIMARY KEY,
	head BYTEA NOT NULL,
	body BYTEA NOT NULL
);

CREATE TABLE weir_job_results (
	job    TEXT PRIMARY KEY,
	status BIGINT NOT NULL,
	bytes  BIGINT NOT NULL,
	blob   TEXT NOT NULL,
	head   BYTEA NOT NULL,
	body   BYTEA NOT NULL
);

-- total counts the bytes of a job's output up to the end of this chunk.
CREATE TABLE weir_job_output (
	job     TEXT NOT NULL,
	seq     BIGINT NOT NULL,
	fence   BIGINT NOT NULL,
	attempt BIGINT NOT NULL,
	total   BIGINT NOT NULL,
	data    BYTEA NOT NULL,
	PRIMARY KEY (job, seq)
);

-- Blobs that no job needs any more and that are not deleted yet.
CREATE TABLE weir_job_blobs (
	blob TEXT PRIMARY KEY
);

-- When each caller was last given a job: a count of the claims of the route.
CREATE TABLE weir_job_turns (
	route  TEXT NOT NULL,
	caller TEXT NOT NULL,
	turn   BIGINT NOT NULL,
	PRIMARY KEY (route, caller)
);
CREATE INDEX weir_job_turns_turn ON weir_job_turns (route, turn);

-- How many jobs have not ended, by caller and by route, each spread over 16 rows so
-- that changes at the same time seldom meet in one.
CREATE TABLE weir_job_counts (
	kind  TEXT NOT NULL, -- caller or route
	name  TEXT NOT NULL,
	shard BIGINT NOT NULL,
	jobs  BIGINT NOT NULL,
	bytes BIGINT NOT NULL,
	PRIMARY KEY (kind, name, shard)
);
